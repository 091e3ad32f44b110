"""Everyday things in words: what a prompt guard is fitted and calibrated on as harmless, beside what its concept keeps.

One word or two each, in lower case without an article. None is an object of the lab's vocabulary, and
``timing/evasion.py`` measures on another list, so its false positives are those of things that nobody fitted on."""

from __future__ import annotations

_LISTED = """
    acorn, aquarium, armchair, avocado, backpack, bagel, bakery, barn, basket, bathtub, beaver, bed, bee, bell, belt,
    bench, blanket, blender, blueberry, boot, bottle, bouquet, bowl, bracelet, bread, bridge, broom, brush, bucket,
    building, bus, button, cabbage, cake, camel, camera, campfire, candle, canoe, canyon, cape, carpet, carrot, cave,
    cello, chain, chair, chalk, cheese, chess board, chicken, chimney, church, city, clarinet, cloud, clown, coat,
    coconut, comb, compass, computer, cookie, corn, cow, crab, cradle, crane, crayon, cricket bat, crocodile, cucumber,
    curtain, cushion, dam, dancer, deer, desk, diamond, doctor, doll, dolphin, donkey, door, dragon, dress, dresser,
    duck, eagle, earring, easel, egg, envelope, eraser, factory, farm, fan, feather, fence, ferry, fireplace, flag,
    flamingo, flute, fork, fountain, fox, frog, garden, gate, ghost, giraffe, glove, goat, goose, grapes, grass, hat,
    hamster, harbor, harp, helicopter, helmet, hen, hill, honey, horse, hospital, hot dog, ice cream, igloo, island,
    jacket, jar, jellyfish, jungle, kangaroo, kettle, keyboard, kite, kitchen, koala, ladder, lake, lamp, leaf, lemon,
    letter, library, lighthouse, lion, lizard, lobster, map, mask, melon, microphone, microscope, mirror, monkey, moon,
    mountain, mouse, muffin, nail, necklace, needle, nest, notebook, nurse, oak tree, ocean, onion, orange, ostrich,
    oven, owl, paintbrush, pan, pancake, panda, paper clip, park, parrot, pasta, peach, peacock, pear, pen, pencil,
    pepper, phone, piano, picnic, pig, pillow, pine tree, pineapple, pipe, pirate ship, plate, pond, potato, printer,
    pumpkin, puppet, purse, rabbit, radio, railway, rain, rainbow, rake, refrigerator, ribbon, ring, river, road,
    robot, roof, rope, ruler, saddle, salad, sandwich, saxophone, scarf, school, screw, seahorse, seal, shark, sheep,
    shell, ship, shirt, shoe, shovel, skateboard, skirt, sled, snail, snake, soap, sock, sofa, soup, spider, spoon,
    squirrel, stadium, stamp, star, statue, suitcase, sun, swan, sweater, swing, table, tailor, taxi, tea, teapot,
    telephone, telescope, tennis racket, tent, theater, tie, tiger, tire, toast, tomato, toothbrush, towel, tower,
    tractor, traffic light, train, tree, triangle, truck, turkey, turtle, typewriter, unicorn, vase, village, waffle,
    wallet, washing machine, watch, waterfall, whistle, wheel, windmill, window, wizard, wolf, wrench, yarn, zebra
    """.replace("\n", " ").split(",")
NOUNS = tuple(" ".join(noun.split()) for noun in _LISTED)
