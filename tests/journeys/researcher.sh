#!/bin/sh
# A researcher with a deadline: from nothing to a first picture, a run, a table for the paper and a report.
# Give it an empty folder: sh researcher.sh FOLDER
set -eu
cd "$1"

genward list defenses
genward show defense uce
genward generate "a cat in noto style" --defense none --defense uce:banana --steps 4 --out first.png

# a concept of one's own is a file
cat > fruit.toml <<'END'
name = "fruit"
kind = "object"
summary = "A banana, under a name of my own."
targets = ["banana"]
phrases = ["a banana", "a ripe banana"]
descriptions = ["a long curved yellow fruit with its skin open"]
anchor = "a strawberry"
neighbors = ["red apple", "cherries"]
keep = ["a dog", "a house"]
judge = { labels = ["banana"] }
END

genward run erasure --preset quick --concept ./fruit.toml --defense 'uce:{concept}' --n 2 --steps 4 --dry-run
genward run erasure --preset quick --concept ./fruit.toml --defense 'uce:{concept}' --n 2 --steps 4 --name mine
genward table mine --format latex --out table.tex
genward table mine --format csv --columns arm,variant,crr,n > cells.csv
genward report mine --out report.html
genward claims mine
