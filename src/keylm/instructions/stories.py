"""The genres that grammar.py writes: verse, stories, talk, lists, jokes and riddles."""

from keylm.instructions.creative import GENRES as LETTERS
from keylm.instructions.grammar import Genre

_COUPLETS = (
    ("I woke up early with the light", "and thought of $topic, clear and bright."),
    ("When all the streets are cold and grey", "I think of $topic on my way."),
    ("The evening comes, the lamps burn low,", "there is so much I want to know."),
    ("Some people look for gold or fame,", "to me these things are all the same."),
    ("So here is what I came to say:", "make room for $topic every day."),
    ("The clock may tick, the wind may blow,", "I do not mind the fast or slow."),
    ("A little song for you and me,", "as old as time, as wide as sea."),
    ("And when the day has been too long", "I hum of $topic in my song."),
    ("My neighbour laughs and shakes his head,", "he says that I should go to bed."),
    ("But you and I, we know it well:", "there are a thousand tales to tell."),
    ("The morning bird upon the wall", "has heard of $topic after all."),
    ("I wrote it down in blue and red,", "the things of $topic in my head."),
    ("It does not ask for coin or crown,", "it lifts me up when I am down."),
    ("And if you ask me, friend of mine,", "I say that all of it is fine."),
    ("A cup of tea, a quiet chair,", "a thought of $topic in the air."),
    ("The years go by, the leaves turn brown,", "the rain falls softly on the town."),
)
_VERSES = (
    ("{Hey|Oh|Come on}, let me tell you what I found today", "something about $topic and I like it that way"),
    ("I was walking down the street with my head held high", "thinking of $topic and the clouds in the sky"),
    ("No time to worry and no time to wait", "we sing about $topic and we stay up late"),
    ("Clap your hands and stamp your feet", "$topic is the word and this is the beat"),
    ("My friends all ask me where I have been", "and I say that I saw what nobody has seen"),
    ("Day after day and night after night", "I keep on going till I get it right"),
    ("One for the morning and two for the moon", "I hope you will sing this with me soon"),
    ("They said it was nothing and I said it was gold", "this is the best story that I was ever told"),
)
_TALES = Genre(
    requests=(
        "Write a story about a $adjective $animal.",
        "Tell me a story about a $adjective $animal and a $object.",
        "Write a bedtime story about a $animal that finds a $object.",
        "I need a short story about a $animal for my daughter.",
        "Make up a tale with a $animal in it.",
        "Write a fairy tale about a $adjective $animal in a $place.",
        "Write a funny story about a $animal.",
    ),
    body=(
        (
            "{Once upon a time there was|Not so long ago there lived|In a land far from here there was} a $adjective $animal called $name.",
            "$name lived {close to the $place|in a small house behind the $place|under a hill near the $place}.",
            "?Nobody knew how old $name was.",
            "Every morning $name {went out to look for food|sat by the door and sang|counted the clouds}.",
        ),
        (
            "One day $name found a $object {in the grass|under a stone|beside the path}.",
            "{It was old and covered with dust|It shone like nothing $name had ever seen}.",
            '"Whose can it be?" {asked|wondered} $name.',
            "?The $object gave no answer.",
        ),
        (
            "So $name set out to find the owner.",
            "First $name met a $animal2 and asked about the $object.",
            '"I have never seen it before," said the $animal2.',
            '"But {the wise $animal3 may know|you could ask the $animal3 at the $place2}."',
            "?They walked on together because it was getting dark.",
        ),
        (
            "{The way was long|It began to rain} and $name grew tired.",
            "More than once $name wanted to turn back.",
            "At last they came to the $animal3.",
            "The $animal3 looked at the $object for a long time and began to {smile|cry|laugh}.",
            '"That is mine," said the $animal3. "I lost it {a hundred years ago|last $season|when I was young}."',
        ),
        (
            "$name gave it back {gladly|at once}.",
            "?In return the $animal3 told them the best story in the world.",
            "From that day on the three of them were friends.",
            "{And if you listen closely you can still hear them laugh|And they lived happily for many years}.",
        ),
    ),
    title="{The $animal and the $object|How $name found a $object}",
)
STORIES: dict[str, Genre] = {
    "poem": Genre(
        whole=False,
        requests=(
            "Write a poem about $topic.",
            "Write a short poem on $topic.",
            "Can you write me a few verses about $topic?",
            "Compose a rhyming poem about $topic.",
            "I want a poem about $topic for my grandmother.",
            "Write some lines of poetry about $topic.",
            "Please make a poem out of the topic: $topic.",
        ),
        body=_COUPLETS,
        title="{A poem about $topic|Thinking of $topic}",
        verse=True,
        pick=6,
    ),
    "song": Genre(
        whole=False,
        requests=(
            "Write a song about $topic.",
            "Write a rap about $topic.",
            "Make up a short song on $topic.",
            "Write lyrics about $topic for my band $band.",
            "I need the words to a song about $topic.",
        ),
        body=_VERSES,
        title="{Song about $topic|All about $topic}",
        verse=True,
        pick=5,
    ),
    "story": _TALES,
    "diary": Genre(
        requests=(
            "Write a diary entry about a day at the $place.",
            "Write a page from the diary of a $job who went to the $place.",
            "Describe a day at the $place from my point of view.",
        ),
        head="Dear diary,",
        body=(
            (
                "today I went to the $place.",
                "{The sun was out|It rained all morning} and I was in a {good|quiet|strange|cheerful} mood.",
            ),
            (
                "On the way I {met $name|saw a $animal|lost my $object}.",
                "{We talked about nothing much|It made me think of home}.",
                "?I wonder what tomorrow will bring.",
            ),
            (
                "Now it is late and I am {tired but happy|writing this by candle light}.",
                "?I should do this more often.",
            ),
        ),
        title="A day at the $place",
    ),
    "speech": Genre(
        requests=(
            "Write a short speech for the $party of $name.",
            "Write a toast for $name at the $party.",
            "I have to give a speech at a $party. My friend is called $name. Help me.",
        ),
        head="{Dear friends|Ladies and gentlemen},",
        body=(
            (
                "{Thank you all for coming to this $party|What a joy to see you all at this $party}.",
                "We are here today because of $name.",
            ),
            (
                "I have known $name for {many|ten|twenty} years.",
                "$name is a $adjective person with a big heart and a talent for $hobby.",
                "?Some of you know the story with the $animal and I will not tell it again.",
                "?When I needed help $name was the first to come.",
            ),
            ("So raise your glasses with me.", "To $name{!| and to many more years!}"),
        ),
        title="To $name",
    ),
    "dialogue": Genre(
        requests=(
            "Write a dialogue between $name and $name2 about $topic.",
            "Write a conversation in which $name asks $name2 about $topic.",
            "Write a short scene with two people, $name and $name2. They talk about $topic.",
        ),
        body=(
            (
                "$name: {Hello|Good morning|Hi}! {Do you have a minute|Can I ask you something}?",
                "$name2: {Of course|Sure}. What is it?",
            ),
            (
                "$name: What do you think about $topic?",
                "$name2: {I never gave it much thought|I could talk about that for hours}.",
            ),
            (
                "$name: {My sister says it is all nonsense|I read about it all week}.",
                "$name2: {And what do you say?|That does not surprise me.}",
            ),
            (
                "$name: I think that there is more to it.",
                "$name2: {Then let us find out together|You may well be right}.",
            ),
            ("$name: {Thank you|You are a good friend}.", "$name2: {Any time|See you on $day}."),
        ),
        title="$name and $name2",
        verse=True,
    ),
    "essay": Genre(
        whole=False,
        requests=(
            "Write an essay about $topic.",
            "Write a paragraph about $topic.",
            "Write a few sentences about $topic.",
            "Tell me something about $topic.",
            "Write an opinion piece on $topic.",
            "What comes to mind when you think of $topic?",
            "Write a text about $topic for our school magazine.",
            "Give a short talk on $topic.",
        ),
        body=(
            (
                "Most people have something to say about $topic.",
                "{Some love it and some do not care at all|For many it is a part of everyday life}.",
                "Children often see it with fresh eyes.",
                "Older people like to tell how it used to be.",
            ),
            (
                "When I think of $topic I think of small moments.",
                "There is a certain sound and a certain smell.",
                "It is hard to put into words.",
                "Perhaps that is why so many songs have been written about $topic.",
            ),
            (
                "There is another side as well.",
                "What one person enjoys can be a burden to someone else.",
                "We should listen to both before we judge.",
                "A little patience goes a long way.",
            ),
            (
                "You can learn a lot about $topic if you ask around.",
                "A neighbour may know an old story.",
                "A library may have a book on it.",
                "And sometimes it is enough to go outside and look.",
            ),
            (
                "In the end everyone has to find their own view of $topic.",
                "Mine has changed over the years.",
                "I have come to value it more than I once did.",
                "Maybe you will too.",
            ),
        ),
        title="{Some thoughts on $topic|About $topic|On $topic}",
        points=(
            "Nearly everyone has an opinion about it",
            "Children see it with fresh eyes",
            "It has inspired many songs",
            "It can be a comfort on a bad day",
            "There is always more to learn",
            "Older people tell stories about it",
            "Not everyone likes it",
            "It is best shared with friends",
        ),
    ),
    "choice": Genre(
        whole=False,
        requests=(
            "What speaks for $thing?",
            "What are the good and the bad sides of $thing?",
            "Make the case for $thing.",
        ),
        body=(
            (
                "There is a lot to be said for $thing.",
                "It {keeps life simple|suits many people} and it {does not cost much|is easy to begin with}.",
            ),
            (
                "It also leaves you time to think.",
                "Many say that it has made them calmer.",
                "?Nobody needs to be an expert.",
            ),
            (
                "On the other hand it is not for everyone.",
                "Some find it dull after a while.",
                "?Others have no room for it in their week.",
            ),
            ("My advice is to try it for a month and then decide.", "You can always change your mind."),
        ),
        title="The case for $thing",
        points=(
            "Good: it keeps life simple",
            "Good: it leaves you time to think",
            "Good: it is easy to begin with",
            "Good: many say it makes them calmer",
            "Bad: some find it dull after a while",
            "Bad: it is not for everyone",
            "Bad: it may not fit into every week",
        ),
    ),
    "packing": Genre(
        whole=False,
        requests=(
            "What should I pack for a trip to $city?",
            "Make a packing list for a week in $city in $month.",
            "List things to take on holiday in $season.",
        ),
        body=(
            (
                "For the trip you need {clothes for all weather|comfortable shoes} and your papers.",
                "Take a small bag for the day.",
                "Do not forget a {charger|toothbrush|book}.",
                "?Leave some room for what you buy there.",
            ),
        ),
        title="Packing list",
        points=(
            "Passport or identity card",
            "Comfortable shoes",
            "A rain jacket",
            "Toothbrush and soap",
            "A charger for your phone",
            "A good book",
            "Socks for every day",
            "A water bottle",
            "Sunglasses",
            "Some cash",
            "A small first aid kit",
            "A warm sweater",
        ),
    ),
    "gifts": Genre(
        whole=False,
        requests=(
            "What can I give a $job as a birthday present?",
            "Suggest gifts for someone who likes $hobby.",
            "I need gift ideas for my friend $name.",
        ),
        body=(
            (
                "A {$gift|$gift2} is always welcome.",
                "Something made by hand shows that you took your time.",
                "?You could also give a day out together.",
            ),
        ),
        title="Gift ideas",
        points=(
            "A good book",
            "A potted plant",
            "A mug with a funny picture",
            "Tickets for a concert",
            "A dinner for two",
            "A warm scarf",
            "A box of chocolates",
            "A photo album",
            "A board game",
            "A notebook with a nice cover",
        ),
    ),
    "petnames": Genre(
        whole=False,
        requests=(
            "Suggest names for my $animal.",
            "What could I call my new pet $animal?",
            "Give me some ideas for naming a $animal.",
        ),
        body=(
            (
                "{Pepper|Biscuit|Shadow} would be a good name for a $animal.",
                "If you want something funny try {Pickles|Noodle|Professor}.",
                "?Short names are easier to call.",
            ),
        ),
        title="Names for a $animal",
        points=(
            "Pepper",
            "Biscuit",
            "Shadow",
            "Pickles",
            "Noodle",
            "Luna",
            "Captain",
            "Daisy",
            "Rusty",
            "Professor",
            "Olive",
            "Ziggy",
            "Clover",
            "Waffle",
        ),
    ),
    "slogan": Genre(
        requests=(
            "Write a slogan for $company, which makes a $product.",
            "I need a slogan for my $product.",
            "Come up with a catchy line for a $product.",
        ),
        body=(
            (
                "{One $product for life|The $product that never lets you down|Your day starts with a good $product|Simply the better $product|A $product you can trust|Made for you: the $product|Small price. Great $product|Go further with your $product}.",
            ),
        ),
        title="The $product",
    ),
    "quiz": Genre(
        whole=False,
        requests=(
            "Write interview questions for a $job.",
            "What should I ask someone who applies as a $job?",
            "I have an interview with a $job tomorrow. Which questions can I ask?",
        ),
        body=(
            (
                "You could ask why they became a $job.",
                "Ask what they are most proud of.",
                "It is also good to know how they deal with stress.",
                "?Leave time for their own questions at the end.",
            ),
        ),
        title="Questions for a $job",
        points=(
            "Why did you become a $job?",
            "What are you most proud of?",
            "How do you deal with stress?",
            "What did you learn from your last mistake?",
            "Which part of the job do you like least?",
            "How do you plan your day?",
            "What would your colleagues say about you?",
            "When could you start?",
        ),
    ),
    "tips": Genre(
        whole=False,
        requests=(
            "How can I sleep better?",
            "Give me advice on falling asleep.",
            "I cannot sleep at night. What can I do?",
            "Any tips for a good night's sleep?",
        ),
        body=(
            (
                "Go to bed at the same time every night.",
                "Keep the room dark and cool.",
                "Put your phone away an hour before.",
            ),
            (
                "A walk in the evening can help.",
                "Do not drink coffee after lunch.",
                "If you cannot sleep get up and read a few pages.",
            ),
            (
                "Some people write down what is on their mind.",
                "If nothing helps for weeks you should talk to a doctor.",
            ),
        ),
        title="Sleeping well",
        points=(
            "Go to bed at the same time every night",
            "Keep the room dark and cool",
            "Put your phone away early",
            "Drink no coffee after lunch",
            "Take a walk in the evening",
            "Write down what is on your mind",
            "Read a few pages of a book",
        ),
    ),
    "study": Genre(
        whole=False,
        requests=(
            "How do I prepare for an exam in $subject?",
            "Give me tips for learning $subject.",
            "My son has trouble with $subject. What can we do?",
            "How can I get better at $subject?",
        ),
        body=(
            (
                "Start early and learn a little of $subject every day.",
                "Half an hour is enough if you do it without your phone.",
            ),
            (
                "Explain what you have learned to someone else.",
                "You will see at once what you have not understood yet.",
                "Then go back to just that part.",
            ),
            (
                "Old tests are a good way to practise.",
                "Take breaks and sleep enough.",
                "?Ask your teacher when you are stuck.",
            ),
        ),
        title="Learning $subject",
        points=(
            "Start early",
            "Learn a little every day",
            "Put your phone away",
            "Explain it to someone else",
            "Practise with old tests",
            "Take short breaks",
            "Ask when you are stuck",
            "Sleep enough before the exam",
        ),
    ),
    "joke": Genre(
        requests=(
            "Tell me a joke.",
            "Do you know a good joke?",
            "Make me laugh.",
            "Write a joke for my friend $name.",
            "I need a short joke for a $event.",
        ),
        body=(
            (
                "{Why did the clock go to school? It wanted to learn how to tell time.|What do you call a fish without an eye? A fsh.|Why do bees have sticky hair? They use honeycombs.|What did one wall say to the other? I will meet you at the corner.|Why was the broom late? It overswept.|What has four wheels and flies? A rubbish truck.|Why did the tomato turn red? It saw the salad dressing.|How does the ocean say hello? It waves.|What do you get when you cross a snowman and a dog? Frostbite.|Why did the teacher wear sunglasses? Her students were too bright.|What kind of tree fits in your hand? A palm tree.|Why did the picture go to jail? It was framed.|What gets wetter the more it dries? A towel.|Why are ghosts bad liars? You can see right through them.|What do you call a sleeping bull? A bulldozer.|Why did the cookie go to the doctor? It felt crumbly.|What did the big flower say to the little one? Hello bud.|Why can a bicycle not stand on its own? It is two tired.}",
            ),
        ),
        title="A joke",
        whole=True,
    ),
    "riddle": Genre(
        requests=(
            "Give me a riddle.",
            "Write a riddle with its answer.",
            "Do you know a riddle for children?",
            "Make up a riddle for $name.",
        ),
        body=(
            (
                "{I have hands but I cannot clap. What am I? A clock.|I have a neck but no head. What am I? A bottle.|The more you take from me the bigger I get. What am I? A hole.|I have teeth but I cannot bite. What am I? A comb.|I run all day and never leave my bed. What am I? A river.|I am full of holes and still hold water. What am I? A sponge.|I have keys but open no door. What am I? A piano.|I go up and never come down. What am I? Your age.|I have leaves but I am not a tree. What am I? A book.|You can catch me but not throw me. What am I? A cold.|I have one eye and cannot see. What am I? A needle.|I get shorter the longer I stand. What am I? A candle.|I follow you all day and leave at night. What am I? Your shadow.|I am light as a feather yet nobody can hold me for long. What am I? Your breath.}",
            ),
        ),
        title="A riddle",
        whole=True,
    ),
}
GENRES: dict[str, Genre] = {**LETTERS, **STORIES}
