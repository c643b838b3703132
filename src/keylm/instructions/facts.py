"""Small tables of common knowledge, and the questions that they answer."""

from dataclasses import dataclass
from random import Random

from keylm.instructions.drafts import capitalised, fix_articles
from keylm.text.sentences import listed


@dataclass(frozen=True)
class Table:
    """Pairs of a thing and what is asked of it; `{a}` and `{b}` in the templates."""

    pairs: tuple[tuple[str, str], ...]
    asks: tuple[str, ...]
    answers: tuple[str, ...]


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((pair.partition(":")[0].strip(), pair.partition(":")[2].strip()) for pair in text.split(";"))


TABLES: dict[str, Table] = {
    "capital": Table(
        _pairs(
            "France:Paris;Germany:Berlin;Italy:Rome;Spain:Madrid;Portugal:Lisbon;Austria:Vienna;Greece:Athens;"
            "Poland:Warsaw;Norway:Oslo;Sweden:Stockholm;Finland:Helsinki;Denmark:Copenhagen;Ireland:Dublin;"
            "Hungary:Budapest;Romania:Bucharest;Bulgaria:Sofia;Croatia:Zagreb;Serbia:Belgrade;Ukraine:Kyiv;"
            "Russia:Moscow;Turkey:Ankara;Egypt:Cairo;Morocco:Rabat;Kenya:Nairobi;Ghana:Accra;Nigeria:Abuja;"
            "Ethiopia:Addis Ababa;Japan:Tokyo;China:Beijing;India:New Delhi;South Korea:Seoul;Thailand:Bangkok;"
            "Vietnam:Hanoi;Indonesia:Jakarta;Australia:Canberra;New Zealand:Wellington;Canada:Ottawa;"
            "the United States:Washington, D.C.;Mexico:Mexico City;Cuba:Havana;Brazil:Brasília;Argentina:Buenos Aires;"
            "Chile:Santiago;Peru:Lima;Colombia:Bogotá;Iceland:Reykjavík;Belgium:Brussels;the Netherlands:Amsterdam;"
            "Switzerland:Bern;the Czech Republic:Prague;Iran:Tehran;Iraq:Baghdad;Jordan:Amman;Nepal:Kathmandu"
        ),
        (
            "What is the capital of {a}?",
            "Which city is the capital of {a}?",
            "capital of {a}?",
            "Tell me the capital of {a}.",
            "{a}: what is its capital?",
        ),
        ("The capital of {a} is {b}.", "{b} is the capital of {a}.", "It is {b}.", "{b}"),
    ),
    "opposite": Table(
        _pairs(
            "hot:cold;big:small;tall:short;fast:slow;old:new;happy:sad;light:dark;early:late;full:empty;rich:poor;"
            "strong:weak;hard:soft;loud:quiet;dry:wet;clean:dirty;open:closed;near:far;deep:shallow;wide:narrow;"
            "thick:thin;high:low;safe:dangerous;sweet:bitter;cheap:expensive;easy:difficult;true:false;brave:cowardly;"
            "asleep:awake;inside:outside;first:last;left:right;up:down;arrive:leave;begin:end;buy:sell;push:pull;"
            "love:hate;win:lose;remember:forget;laugh:cry;heavy:light;smooth:rough;sharp:blunt;polite:rude"
        ),
        (
            "What is the opposite of {a}?",
            'Give me the opposite of "{a}".',
            "Which word means the opposite of {a}?",
            "antonym of {a}",
            "What is an antonym for {a}?",
        ),
        ("The opposite of {a} is {b}.", "{b}", "It is {b}.", 'An antonym of "{a}" is "{b}".'),
    ),
    "plural": Table(
        _pairs(
            "mouse:mice;child:children;foot:feet;tooth:teeth;goose:geese;man:men;woman:women;person:people;knife:knives;"
            "leaf:leaves;wolf:wolves;half:halves;city:cities;baby:babies;box:boxes;church:churches;bus:buses;hero:heroes;"
            "potato:potatoes;tomato:tomatoes;sheep:sheep;deer:deer;fish:fish;ox:oxen;cactus:cacti;crisis:crises;"
            "phenomenon:phenomena;criterion:criteria;shelf:shelves;loaf:loaves;wife:wives;thief:thieves;fly:flies"
        ),
        ("What is the plural of {a}?", 'What is the plural form of "{a}"?', "plural of {a}?", "One {a}, two …?"),
        ("The plural of {a} is {b}.", "{b}", "It is {b}."),
    ),
    "past": Table(
        _pairs(
            "go:went;see:saw;eat:ate;write:wrote;run:ran;sing:sang;swim:swam;take:took;give:gave;come:came;think:thought;"
            "buy:bought;bring:brought;teach:taught;catch:caught;find:found;keep:kept;leave:left;sleep:slept;feel:felt;"
            "know:knew;grow:grew;throw:threw;fly:flew;draw:drew;break:broke;speak:spoke;drive:drove;ride:rode;rise:rose;"
            "choose:chose;wear:wore;forget:forgot;begin:began;drink:drank;hold:held;tell:told;sell:sold;pay:paid;say:said"
        ),
        (
            "What is the past tense of {a}?",
            'What is the simple past of "{a}"?',
            "past tense of {a}",
            "Today I {a}, yesterday I …?",
        ),
        ("The past tense of {a} is {b}.", "{b}", "It is {b}."),
    ),
    "young": Table(
        _pairs(
            "cat:kitten;dog:puppy;cow:calf;horse:foal;sheep:lamb;pig:piglet;goat:kid;hen:chick;duck:duckling;goose:gosling;bear:cub;lion:cub;deer:fawn;frog:tadpole;kangaroo:joey;swan:cygnet;owl:owlet;rabbit:kit;elephant:calf;whale:calf"
        ),
        ("What do you call a young {a}?", "What is a baby {a} called?", "What is the name for a young {a}?"),
        ("A young {a} is called a {b}.", "It is called a {b}.", "A {b}."),
    ),
    "sound": Table(
        _pairs(
            "cat:meows;dog:barks;cow:moos;horse:neighs;sheep:bleats;pig:oinks;duck:quacks;lion:roars;wolf:howls;bee:buzzes;snake:hisses;owl:hoots;frog:croaks;rooster:crows;mouse:squeaks;donkey:brays;pigeon:coos;crow:caws"
        ),
        ("What sound does a {a} make?", "What noise does a {a} make?", "How does a {a} sound?"),
        ("A {a} {b}.", "It {b}."),
    ),
    "colour": Table(
        _pairs(
            "grass:green;the sky on a clear day:blue;snow:white;coal:black;a ripe banana:yellow;a ripe tomato:red;a carrot:orange;chocolate:brown;a lemon:yellow;an aubergine:purple;a flamingo:pink;blood:red;milk:white;a frog:usually green;an elephant:grey;ash:grey"
        ),
        ("What colour is {a}?", "Which colour does {a} have?", "what color is {a}"),
        ("{a} is {b}.", "It is {b}."),
    ),
    "continent": Table(
        _pairs(
            "France:Europe;Spain:Europe;Norway:Europe;Egypt:Africa;Kenya:Africa;Nigeria:Africa;Morocco:Africa;Japan:Asia;China:Asia;India:Asia;Thailand:Asia;Vietnam:Asia;Brazil:South America;Peru:South America;Chile:South America;Argentina:South America;Canada:North America;Mexico:North America;Cuba:North America;Poland:Europe;Ghana:Africa;Nepal:Asia"
        ),
        ("On which continent is {a}?", "Which continent is {a} on?", "Where is {a}? Name the continent."),
        ("{a} is in {b}.", "It is in {b}.", "{b}"),
    ),
    "language": Table(
        _pairs(
            "France:French;Germany:German;Italy:Italian;Spain:Spanish;Portugal:Portuguese;Brazil:Portuguese;Mexico:Spanish;Japan:Japanese;Poland:Polish;Greece:Greek;Sweden:Swedish;Turkey:Turkish;Russia:Russian;Austria:German;Egypt:Arabic;Hungary:Hungarian;Finland:Finnish and Swedish;Argentina:Spanish"
        ),
        (
            "What language is spoken in {a}?",
            "Which language do people speak in {a}?",
            "What is the official language of {a}?",
        ),
        ("In {a} people speak {b}.", "They speak {b}.", "{b}"),
    ),
    "symbol": Table(
        _pairs(
            "hydrogen:H;helium:He;carbon:C;nitrogen:N;oxygen:O;sodium:Na;iron:Fe;copper:Cu;silver:Ag;gold:Au;lead:Pb;tin:Sn;zinc:Zn;calcium:Ca;potassium:K;sulphur:S;chlorine:Cl;neon:Ne;mercury:Hg;uranium:U"
        ),
        (
            "What is the chemical symbol for {a}?",
            "Which symbol stands for {a}?",
            "symbol of {a} in the periodic table?",
        ),
        ("The chemical symbol for {a} is {b}.", "It is {b}.", "{b}"),
    ),
    "after": Table(
        _pairs(
            "Monday:Tuesday;Tuesday:Wednesday;Wednesday:Thursday;Thursday:Friday;Friday:Saturday;Saturday:Sunday;Sunday:Monday;January:February;February:March;March:April;April:May;May:June;June:July;July:August;August:September;September:October;October:November;November:December;December:January;spring:summer;summer:autumn;autumn:winter;winter:spring"
        ),
        ("What comes after {a}?", "What follows {a}?", "after {a} comes …?"),
        ("{b} comes after {a}.", "{b}", "After {a} comes {b}."),
    ),
    "use": Table(
        _pairs(
            "a thermometer:measure temperature;a compass:find the direction;a clock:tell the time;a telescope:look at distant things;a microscope:look at very small things;a hammer:drive in nails;a saw:cut wood;scissors:cut paper or cloth;a needle:sew;a ruler:measure length;an umbrella:stay dry in the rain;a kettle:boil water;a broom:sweep the floor;a lock:keep a door shut;a dictionary:look up words;a map:find your way;a scale:weigh things;a calendar:keep track of dates;a pump:move air or water;glasses:see better"
        ),
        ("What is {a} used for?", "What do you use {a} for?", "What can I do with {a}?"),
        ("You use {a} to {b}.", "It is used to {b}."),
    ),
    "where": Table(
        _pairs(
            "a book:in a library or a bookshop;bread:at a bakery;medicine:at a pharmacy;stamps:at a post office;fish:at a fish market;a train:at a station;an aeroplane:at an airport;a ship:in a harbour;a doctor:in a surgery or a hospital;paintings:in a museum or a gallery;a judge:in a court;a cow:on a farm;a camel:in the desert;a penguin:in the far south;a play:in a theatre;flowers:in a garden or at a florist's"
        ),
        ("Where can you find {a}?", "Where would I find {a}?"),
        ("You can find {a} {b}.", "Most likely {b}."),
    ),
}
LISTS: dict[str, tuple[str, ...]] = {
    "fruits": tuple(
        listed(
            "apple banana cherry grape lemon mango melon orange peach pear pineapple plum strawberry kiwi fig apricot"
        )
    ),
    "vegetables": tuple(
        listed("carrot potato onion cabbage spinach pea bean cucumber pumpkin leek radish beetroot lettuce celery")
    ),
    "animals": tuple(
        listed("cat dog horse cow sheep lion tiger elephant giraffe bear wolf fox rabbit mouse deer monkey goat camel")
    ),
    "birds": tuple(
        listed("sparrow eagle owl crow robin swan duck goose pigeon parrot penguin stork gull heron woodpecker")
    ),
    "colours": tuple(listed("red blue green yellow orange purple pink brown black white grey turquoise")),
    "musical instruments": tuple(
        listed("piano violin guitar flute drum trumpet cello harp clarinet saxophone organ oboe trombone")
    ),
    "sports": tuple(
        listed("football tennis swimming basketball hockey rowing cycling running golf boxing volleyball rugby skiing")
    ),
    "trees": tuple(listed("oak beech birch pine willow maple ash elm chestnut cedar larch poplar")),
    "flowers": tuple(listed("rose tulip daisy lily violet sunflower poppy orchid daffodil carnation")),
    "jobs": tuple(listed("teacher nurse baker farmer plumber doctor driver cook pilot judge painter tailor")),
    "countries": tuple(
        listed("France Italy Spain Japan Brazil Canada Egypt Kenya India China Norway Mexico Peru Greece")
    ),
    "planets": tuple(listed("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")),
    "months": tuple(listed("January February March April May June July August September October November December")),
    "pieces of furniture": tuple(listed("table chair bed sofa desk wardrobe shelf stool bench cupboard armchair")),
    "clothes": tuple(listed("shirt trousers jacket dress skirt sock hat scarf coat glove jumper belt")),
    "tools": tuple(listed("hammer saw screwdriver spanner drill chisel file axe spade rake")),
    "languages": tuple(
        listed("English Spanish French German Italian Portuguese Arabic Chinese Japanese Russian Turkish Hindi")
    ),
    "drinks": tuple(listed("water tea coffee milk juice lemonade cocoa cider")),
    "metals": tuple(listed("iron copper gold silver tin lead zinc aluminium nickel platinum")),
    "parts of the body": tuple(listed("head arm leg hand foot knee elbow shoulder neck nose ear eye mouth finger")),
    "kinds of weather": tuple(listed("sunshine rain snow fog hail wind thunder drizzle frost")),
    "insects": tuple(listed("ant bee wasp beetle butterfly moth fly mosquito dragonfly grasshopper")),
    "shapes": tuple(listed("circle square triangle rectangle oval pentagon hexagon star")),
    "school subjects": tuple(listed("mathematics history geography biology physics chemistry music art literature")),
}


def fact(random: Random) -> tuple[str, str]:
    """Return a question of common knowledge and its answer."""
    table = TABLES[random.choice(list(TABLES))]
    a, b = random.choice(table.pairs)
    ask = fix_articles(capitalised(random.choice(table.asks).format(a=a, b=b)))
    answer = random.choice(table.answers).format(a=a, b=b)
    return ask, answer if answer == b else fix_articles(capitalised(answer))


def listing(random: Random) -> tuple[str, str]:
    """Return a request for a few things of a kind, and a list."""
    kind = random.choice(list(LISTS))
    count = random.randint(1, 6)
    things = random.sample(LISTS[kind], count)
    number = ("one", "two", "three", "four", "five", "six")[count - 1]
    if count == 1:
        ask = random.choice(
            ("Name one of the {kind}.", "Give me an example of {kind}.", "I need an example of {kind}.")
        ).format(kind=kind)
        return ask, random.choice(
            (capitalised(things[0]), f"{capitalised(things[0])}.", f"One example is {things[0]}.")
        )
    ask = random.choice(
        (
            "Name {n} {kind}.",
            "List {n} {kind}.",
            "Give me {n} {kind}.",
            "Can you name {n} {kind}?",
            "Write down {n} {kind}.",
            "Tell me {n} {kind}.",
        )
    ).format(n=random.choice((number, str(count))), kind=kind)
    style = random.random()
    if style < 0.4:
        return ask, f"{capitalised(', '.join(things[:-1]))} and {things[-1]}."
    if style < 0.7:
        return ask, "\n".join(f"* {capitalised(thing)}" for thing in things)
    if style < 0.85:
        return ask, "\n".join(f"{place}. {capitalised(thing)}" for place, thing in enumerate(things, 1))
    return ask, f"Here are {number} {kind}: {', '.join(things[:-1])} and {things[-1]}."
