"""Short stock texts that makers put into answers: endings, postscripts, placeholders, nouns to work in."""

from keylm.text.sentences import listed

END_PHRASES = (
    "Let me know if you need more.",
    "That is all for today.",
    "I hope this helps.",
    "Have a good day!",
    "And that is the whole story.",
    "Feel free to ask more.",
    "What do you think?",
    "Thank you for reading.",
    "See you next time!",
    "The rest is up to you.",
    "Now you know.",
    "More on this tomorrow.",
    "Keep that in mind.",
    "Good luck!",
    "End of message.",
    "This is my final answer.",
    "Is that clear enough?",
    "Try it for yourself.",
    "Tell me if anything is unclear.",
    "That says it all.",
    "There is always more to learn.",
    "Do you have any other questions?",
    "With best regards from your assistant.",
    "So much for that.",
    "I rest my case.",
    "Can you see why?",
    "It is as simple as that.",
    "Stay curious!",
    "We will meet again.",
    "Nothing more needs to be said.",
    "Please share this with your friends.",
    "I am glad you asked.",
    "Remember this well.",
    "The choice is yours.",
    "Have I answered your question?",
    "Over and out.",
    "All the best!",
    "Anything else you would like to know?",
    "This concludes the answer.",
    "Take care of yourself.",
)
START_PHRASES = (
    "Here is my answer.",
    "Good question!",
    "Let me explain.",
    "Of course.",
    "Dear reader,",
    "Listen closely.",
    "To begin with,",
    "My answer follows.",
    "Hello there!",
    "Here you go:",
    "Gladly.",
    "As you wish.",
    "Once upon a time",
    "Let us begin.",
    "In short:",
    "Thanks for asking.",
    "This is what I know.",
    "Attention, please!",
    "Welcome!",
    "Ladies and gentlemen,",
)
POSTSCRIPTS = (
    "Let me know if you want to hear more about {topic}.",
    "Thank you for asking.",
    "I could say much more about this.",
    "Please forgive any mistakes.",
    "Write back when you have time.",
    "There is more to {topic} than this.",
    "Do not forget to smile today.",
    "I wrote this in a hurry.",
    "If something is unclear, just ask.",
    "Share this with a friend who may like it.",
    "I enjoyed writing this.",
    "Ask me again tomorrow and I may say it better.",
    "Have a lovely week.",
    "The best part is still to come.",
    "Keep this note for later.",
    "I hope that you are well.",
    "Say hello to everyone from me.",
    "It was a pleasure to think about {topic}.",
    "There will be cake.",
    "Remember to take a break now and then.",
)
PLACEHOLDER_SENTENCES = (
    "For more, write to [name] at [email address].",
    "This was written by [author] on [date].",
    "Call [phone number] if you have questions.",
    "Please send your thoughts to [address] before [deadline].",
    "You can read more about it at [website].",
    "We will talk about this on [day] at [time] in [place].",
    "Signed, [your name], [your position].",
    "Ask [contact person] at [company] for details.",
    "It was first published in [magazine] in [year].",
    "Meet us in [city] at [venue] to learn more.",
    "The next part comes out on [date].",
    "[name] from [organisation] kindly read this before it was sent.",
)
FORM_FIELDS = (
    "Name: [full name]",
    "Address: [street and number]",
    "City: [city]",
    "Phone: [phone number]",
    "Email: [email address]",
    "Date: [date]",
    "Subject: [subject]",
    "Reference: [number]",
    "Signature: [signature]",
    "Company: [company name]",
)
JOINING_SENTENCES = {
    1: (
        "It also makes me think of the word {0}.",
        "Even the {0} has its place in this.",
        "Somewhere in all of this there is a {0} as well.",
        "You could compare it with a {0}.",
        "And then there is the {0}, which should not be forgotten.",
    ),
    2: (
        "It also makes me think of a {0} and a {1}.",
        "The {0} and the {1} belong here as well.",
        "You could say that it lies somewhere between a {0} and a {1}.",
        "A {0} may come to mind, or a {1}.",
    ),
    3: (
        "It also makes me think of a {0}, a {1} and a {2}.",
        "Even the {0}, the {1} and the {2} can be part of this.",
        "There is room here for a {0}, a {1} and a {2} too.",
    ),
}
LIST_OPENINGS = (
    "Here is the list:",
    "Here are the main points:",
    "These are worth knowing:",
    "The points are:",
    "In short:",
    "Here you are:",
)
SECTION_WORDS = ("SECTION", "Section", "PART", "Part", "Chapter", "Day", "Step", "PARAGRAPH", "Topic", "Scene", "Point")
OPENERS = (
    "Overall",
    "Today",
    "Often",
    "Basically",
    "Clearly",
    "Actually",
    "Usually",
    "Generally",
    "Notably",
    "Interestingly",
    "Naturally",
    "Briefly",
    "Certainly",
    "Indeed",
    "Again",
    "Firstly",
    "Historically",
    "Remarkably",
)
NOUNS = tuple(
    listed(
        "table window garden river mountain letter bridge winter summer market school teacher doctor farmer "
        "sailor painter music dance story dream clock mirror candle forest island harbour village castle "
        "kitchen bread butter apple orange lemon coffee sugar salt pepper spoon knife plate basket blanket "
        "pillow carpet ladder hammer needle button pocket jacket ribbon glove boot hat ring coin ticket stamp "
        "map compass lantern engine wheel train ship rocket planet star moon cloud storm thunder shadow "
        "sunrise evening morning holiday birthday wedding journey adventure secret promise question answer "
        "reason mistake lesson habit talent hobby game puzzle riddle joke smile tear voice silence echo "
        "memory history science language alphabet number circle square triangle colour painting statue museum "
        "theatre library newspaper magazine camera telephone computer keyboard robot battery magnet crystal "
        "diamond feather egg rabbit tiger elephant horse donkey turtle spider butterfly eagle owl penguin "
        "whale dolphin shark crab seed root leaf flower tree mushroom desert valley ocean beach wave volcano "
        "earthquake weather temperature energy budget salary customer meeting contract project schedule "
        "strategy freedom justice courage patience friendship family neighbour stranger hero champion captain "
        "queen king soldier citizen election president health medicine exercise breakfast dinner recipe "
        "restaurant waiter hotel airport passport suitcase umbrella bicycle traffic road tunnel tower roof "
        "door key lock wall floor ceiling lamp chair sofa cupboard drawer bottle glass cup bowl oven stove"
    )
)
"""Plain nouns that take “a” or “the”; “a” before a vowel is put right by drafts.fix_articles."""
