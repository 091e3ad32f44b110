#!/bin/sh
# An auditor who was handed a store: is it whole, are its figures those of its pictures, what holds, what cannot be told?
# Give it the store and an empty folder: sh auditor.sh STORE FOLDER
set -eu
store="$1"
cd "$2"

genward check --store "$store"
genward verify mine --store "$store"
genward claims mine --store "$store" --json > claims.json
genward report mine --store "$store" --out report.html --data figures.json
genward view --store "$store" --out pages
