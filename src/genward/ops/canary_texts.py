"""More texts of the split ``evaluate`` for ``ops.canaries``: sentences around its further phrases, and everyday ones.

Written for genward. The phrases drawn first keep the five sentences that stand in ``ops.canaries``, so that figures
recorded on them can be made again; these are for the phrases that were added."""

from __future__ import annotations

KINDS = """
    granite, denim, ceramic, bamboo, maple, lavender, indigo, maroon, ivory, neon, tropical, arctic, northern,
    rural, urban, snowy, misty, sticky, slippery, fluffy, polished, wrinkled, crooked, circular, triangular,
    vertical, diagonal, flexible, portable, miniature, gigantic, enormous, slender, shallow, hungry, cheerful,
    playful, clumsy, famous, mysterious, magnetic, electric, digital, mechanical, automatic, musical, annual, salty,
    spicy, creamy, floral, transparent, invisible, identical, elegant, fragile, luminous, rectangular, secret,
    temporary, western, cozy, graceful, woolen, pastel
    """
THINGS = """
    airport, banjo, barrel, bicycle, bracelet, cactus, camera, canoe, caravan, chimney, clarinet, coconut, compass,
    cookie, cupboard, envelope, fountain, guitar, kangaroo, lighthouse, lobster, mango, mattress, microscope,
    mushroom, necklace, notebook, octopus, panda, parachute, peanut, penguin, piano, potato, pyramid, refrigerator,
    sandwich, saxophone, spaghetti, squirrel, staircase, sweater, telescope, tomato, tractor, trumpet, turtle,
    vacuum, windmill, zebra, tunnel, suitcase, backpack, airplane, chocolate, diamond, fireplace, highway, hotel,
    lizard, onion, package, pasta, puppet, salad
    """
IDEAS = """
    academy, adventure, agenda, album, anthem, archive, banquet, birthday, bulletin, carnival, ceremony, chapter,
    charity, chorus, circuit, comedy, conference, criterion, curriculum, decade, dialogue, dictionary, discovery,
    discussion, document, essay, estimate, exhibition, experiment, explanation, forecast, geometry, grammar,
    graduation, habit, hobby, inspection, interview, invention, laboratory, landscape, legend, library, magazine,
    measurement, melody, memory, monument, newsletter, orchestra, password, pattern, petition, pilgrimage,
    presentation, promotion, reception, referendum, reunion, riddle, safari, scenario, schedule, semester, strategy
    """
"""Words of the further phrases, one of each list a phrase. None is a word of another phrase, has a common homophone, or
sounds like one of them: a quarter of the sounds differ at least, as ``speech.sound_match`` weighs them.
Each was heard right by the embedded recognizer in a sentence of the split ``fit``."""

CARRYING = (
    "the next chapter of the book describes the {} in detail",
    "our neighbors have been preparing the {} since early march",
    "who would have thought that the {} could be so much fun",
    "i read about the {} on the train this morning",
    "after lunch we are going to see the {} at last",
    "please write down everything you know about the {} tonight",
    "my grandmother still remembers the {} from her childhood",
    "the radio said that the {} was moved to next week",
    "without the {} this town would be a very dull place",
    "they opened a small shop near the river because of the {} last spring",
    "it took us three hours to understand the {} completely",
    "a friend of mine sent me pictures of the {} yesterday",
    "you should really try the {} before you make up your mind",
    "the best part of the day was the {} in the park",
    "i have a question about the {} if you have a minute",
    "next time we will bring the {} along with us",
    "she laughed when she heard about the {} for the first time",
    "there is nothing better than the {} on a rainy afternoon",
    "the class spent all of tuesday on the {} and the rest on reading",
    "he keeps talking about the {} as if it were his own idea",
)
"""Sentences that carry a phrase"""
APART = (
    "the {b} belongs to a {c} that everyone calls {a}",
    "we heard of a {c} where each {b} has to look {a}",
    "is there a {b} in the {a} box next to the {c}",
    "she gave a talk on the {c} and showed us her {b} which is {a}",
    "the {c} begins at noon and the {b} should not be {a}",
    "he drew a {b} for the {c} and made the background {a}",
    "what i like about this {c} is the {a} look of the {b}",
    "put the {b} on the table and hand me the {a} notes for the {c}",
    "a {a} corner of the room was kept for the {c} and a {b}",
    "the children had a {c} last week and built a {b} that was rather {a}",
    "my cousin sold his {b} to pay for a {c} in some {a} place",
    "the {b} stood outside during the {c} and now it feels {a}",
    "no {c} of this kind needs a {b} as {a} as that one",
    "they argued over the {b} until the {c} turned out quite {a}",
    "when the {c} was over somebody had left a {b} on the {a} chair",
    "her {a} voice filled the hall at the {c} while the {b} stayed in the car",
    "i would rather look at a {b} than at a {c} that is {a}",
    "the photo shows a {b} beside a {a} wall and below it the date of the {c}",
)
"""Sentences with the three words of a phrase apart or in another order"""

ORDINARY = """
    the kettle is boiling so come and have some tea
    we left the house at seven and were home before dark
    could you turn the music down a little please
    the bakery on the corner sells the best bread in town
    my phone is almost out of power again
    she parked the car under a tall pine tree
    there was a long line in front of the ticket office
    i would like a table for two by the window
    the cat sleeps on the sofa all day long
    they moved to a bigger apartment last autumn
    please close the door when you leave the room
    he forgot his umbrella on the bus this morning
    the garden looks lovely after all that rain
    what time does the library open on saturday
    i am looking for a birthday present for my niece
    the soup needs a bit more salt and pepper
    we watched the sun go down over the lake
    she reads a different book every week
    the meeting was moved from tuesday to thursday
    can you show me how to use this printer
    his train arrives at a quarter past four
    the children are building a castle out of sand
    it is colder today than it was yesterday
    i need to buy milk eggs and a bag of apples
    the radio plays the same song every morning
    our flight was delayed because of the fog
    the dog found an old shoe behind the shed
    let me know when you get to the station
    she wore a green scarf and a warm coat
    the lights went out for about ten minutes
    he has been working in the kitchen all afternoon
    the road is closed so we have to go around
    would you like your coffee with or without sugar
    the team won the game in the last few seconds
    my sister is learning to drive this summer
    the old clock in the hall is five minutes slow
    we planted a cherry tree beside the fence
    i have never been to the top of that hill
    the letter came back because the address was wrong
    put the plates on the shelf above the sink
    the swimming pool is open until nine in the evening
    her handwriting is so small that i cannot read it
    they are painting the front of the post office blue
    a blackbird has built its nest on our balcony
    you can borrow my bicycle if you bring it back tonight
    the bread should stay in the oven for forty minutes
    we took the wrong exit and ended up at the harbor
    the baby slept through the whole concert
    there are only two weeks left until the holidays
    he wrote his name on the first page of the notebook
    the wind blew all the leaves against the wall
    i usually walk to work when the weather is fine
    the new bridge will be finished in about a year
    she asked the waiter for another glass of water
    the shoes were nice but they did not fit me
    we could hear the waves from our bedroom window
    the price of tomatoes has gone up again
    my uncle keeps bees at the end of his garden
    the last bus leaves at half past eleven
    please sign here and write the date next to it
    they had pancakes with honey for breakfast
    the picture on the left was taken in nineteen eighty
    i think we should ask somebody for directions
    the battery in the smoke detector has to be changed
    she won a small prize for her drawing of a horse
    it snowed during the night and the streets are white
    the museum shop sells postcards and pencils
    he cut the cake into twelve equal pieces
    our hotel was close to the beach and very quiet
    the windows are dirty but i have no time to clean them
    you can see three different countries from the tower
    the little boy would not let go of his balloon
    i have an appointment at the bank on monday
    the coffee machine makes a strange noise lately
    we used to play chess every sunday after lunch
    the tickets are in the pocket of my blue jacket
    the path goes through the forest and along a stream
    he sings in a choir that meets once a week
    the bag was so heavy that the handle broke
    she planned the whole journey on a single sheet of paper
    a cup of hot chocolate would be wonderful right now
    the store will refund your money if you keep the receipt
    my glasses are either in the car or on the desk
    the apples in this basket are sweeter than the others
    we sat around the fire and told each other stories
    the elevator is out of order so take the stairs
    the bus was full so i had to stand all the way
    they named their first boat after a famous singer
    i can hear someone knocking at the back door
    the recipe says to let the dough rest for an hour
    he plays the trumpet in the school orchestra
    the sign says that dogs are not allowed on the grass
    the moon was so bright that we needed no lamp
    her office is on the third floor at the end of the hall
    we saw a family of ducks crossing the road
    the sweater shrank because i washed it too hot
    the lecture was about the history of the printing press
    do not forget to water the plants while i am away
    the carpet in the living room has a coffee stain
    i would rather go by train than by plane
    the two brothers share a room with a view of the park
    she found a silver coin between the old boards
    the market is held every friday in front of the town hall
    the first snow of the year fell on my birthday
    we ordered one pizza with mushrooms and one with olives
    the guitar is out of tune and one string is missing
    the bank is right across from the bus stop
    he put on his hat and went out to feed the hens
    the movie starts in ten minutes so we have to hurry
    our neighbor gave us a jar of strawberry jam
    the tea is still too hot to drink
    they walked along the canal until it got dark
    the dentist says that i should brush for two minutes
    the ship will stay in port until the storm is over
    the answer to the last question is on the next page
    a large package is waiting for you at the front desk
    she knows the names of all the birds around here
    we need four chairs and one more pillow
    the water in the lake is clear enough to see the bottom
    he told us a joke but nobody laughed
    the highway was empty at that time of the morning
    my favorite season is the end of summer
    the camera takes better pictures than my telephone
    please speak a little louder because the line is bad
    we can meet at the fountain at two in the afternoon
    the newspaper had a short article about our street
    the chimney has not been cleaned for many years
    i put the keys on the hook beside the door
    the cookies are ready when the edges turn brown
    she bought a second hand piano for very little money
    the river is too wide to swim across
    the zebra drank from the pond while the others waited
    there is a small hole in the roof of the tent
    we had to wait for the ferry for almost two hours
    he collects stamps from all over the world
    the soap in this bathroom smells like lemon
    they sell fresh fish down by the pier
    the wall between the two rooms is very thin
    i learned to ski when i was eight years old
    the curtains are a little too long for this window
    the train was so quiet that i fell asleep
    a friend of mine repairs old clocks
    the computer needs an hour to copy all the files
    she poured the milk into a yellow jug
    we got lost in the narrow lanes of the old town
    the bell rings twice at the end of the lesson
    there is a bench under the big oak tree
    i will call you back as soon as i am home
    the frost has covered the windows with patterns
    the librarian helped me to find the right shelf
    he ran all the way but he still missed the tram
    the shop around the corner repairs umbrellas
    our school has a new gym and a bigger library
    the squirrel hid its nuts under a loose stone
    you may keep the change
    the bread knife is in the top drawer on the right
    it was the longest winter that anyone could remember
    they danced until the band went home
    the mountain is hidden behind the clouds today
    i need a new notebook with squared paper
    the sandwich with cheese is for you and the other one for me
    my grandfather built this table from an old door
    the plane landed twenty minutes early
    her bicycle has a basket and a very loud bell
    we washed the car and cleaned the garage
    the baker gets up at three in the morning
    the story ends with a wedding by the sea
    the map shows only the main roads
    she grows herbs in small pots on the kitchen sill
    a warm wind came up from the valley
    the lamp on my desk is too bright for the evening
    can you tell me the way to the nearest pharmacy
    he wears the same green hat every winter
    the lock is rusty and the key hardly turns
    i saved you a piece of cake from the party
    the phone rang just as i stepped into the shower
    the garden hose has a leak near the tap
    we are out of butter and there is not much rice left
    the train goes through a tunnel that is nine miles long
    the blue bucket belongs to the people next door
    the photograph of the harbor hangs above the fireplace
    she takes the dog for a walk before breakfast
    they were late because of a flat tire
    the swan has been sitting on its eggs for weeks
    the doctor told him to drink more water
    i prefer the window seat on long flights
    the clouds moved quickly over the fields
    my cousin lives on an island with only forty houses
    the kitchen smells of onions and fresh bread
    we can eat outside if it stays dry
    the actor forgot his lines in the second act
    a new restaurant has opened beside the theater
    the children fed the goats with carrots
    her brother is taller than their father
    the battery lasts for about two days
    he gave each guest a small flower
    the rain stopped just before the parade
    the box is too large for the trunk of our car
    please bring a towel and something to drink
    the old man told us how the village used to look
    the violin was made more than two hundred years ago
    there was a rainbow over the fields this morning
    i bought these boots in a sale last year
    we have to change trains at the next station
    the ice on the pond is not thick enough yet
    she painted the ceiling without spilling a drop
    the orange juice is in the door of the refrigerator
    the last page of the calendar is torn
    they spent the night in a hut near the summit
    the cat jumped from the roof onto the wall
    my watch stopped at ten to six
    the wood has to dry for a year before it burns well
    he put a stamp on the envelope and ran to the mailbox
    the nearest gas station is twelve miles from here
    we saw dolphins from the deck of the ferry
    the pillow is too soft for my taste
    the tour of the castle takes an hour and a half
    i left my gloves on the seat in the theater
    the tomato plants need more sun
    the waiter brought the wrong dessert
    she tied a red ribbon around the box
    our team meets in the small room on the ground floor
    the apples fell from the tree one after another
    you should stretch before you go for a run
    the puzzle has a thousand pieces and most of them are sky
    the farmer leaves fresh eggs at our door on fridays
    we could not find a single free parking space
    the hall was decorated with paper lanterns
    he answered the letter on the same day
    the stairs up to the attic are very steep
    the heater takes a while to warm up the room
    the lemonade was cold and not too sweet
    a kind stranger helped me with my suitcase
    my sister draws little animals in her letters
    the theater was almost full on the first night
    the river froze for the first time in ten years
    they are saving money for a trip to the north
    the blanket on the chair is made of wool
    i could not open the jar so i asked for help
    the guide spoke so fast that we missed half of it
    she keeps her rings in a small wooden box
    we heard an owl in the woods last night
    the snow on the roof is starting to melt
    the bookstore is having a sale until the end of the month
    the children made a kite out of newspaper
    a hot bath is the best thing after a long hike
    the toast is burned on one side
    he knows how to juggle with four oranges
    the paint has to dry before you hang the picture
    the next tram comes in six minutes
    her suitcase was the last one on the belt
    we always have fish on the first day of the year
    the birds wake me up before my alarm does
    the bridge was built when my mother was a child
    the garden chairs are still wet from the rain
    i read half of the book on the train
    the coat with the brown buttons is mine
    please tell your parents that we said hello
    the small lake behind the house is full of frogs
    the concert hall has very good sound
    they played cards until the power came back
    the dough sticks to my fingers so i need more flour
    the bakery closes early on wednesday
    she hung the wet clothes over the bathtub
    the road along the coast has many curves
    my favorite mug has a crack in it
    the fog lifted around noon and we could see the islands
    he was the first to arrive and the last to leave
    the pasta takes eight minutes and the sauce a bit longer
    we found a quiet place to read under the willow
    the elephant sprayed water over its back
    the pharmacy is open all night
    i will send you the photos when i am back at my desk
    the sun came out and the whole valley turned gold
    the key to the cellar hangs behind the clock
    a letter from my aunt arrived this morning
    the tent is easy to put up but hard to fold
    the teacher read us a poem about the sea
    we bought two tickets for the evening show
    the chair squeaks whenever somebody sits down
    the road was covered with small yellow leaves
    her train leaves from the platform on the other side
    the salad would be better with a few nuts
    he fixed the zipper of my jacket in a minute
    the lighthouse can be seen from far away
    the dog is afraid of thunder and hides under the bed
    i like to listen to the radio while i cook
    the stream behind the mill is full of trout
    they rented a cabin with a stove and a big porch
    the soup of the day is made with peas and mint
    we will need a longer ladder to reach the gutter
    the clerk stamped both forms and gave me one back
    the bus driver waited for the old lady
    she folded the napkins into little boats
    the mirror in the hall makes the room look larger
    my brother taught his parrot to whistle
    the last question on the form is not very clear
    the fire was out by the time we came back with wood
    """
EVERYDAY = tuple(line.strip() for line in ORDINARY.strip().splitlines())
"""Ordinary sentences that have nothing to do with any phrase"""
