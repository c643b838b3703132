"""The genres that grammar.py writes: letters and messages, adverts, plans, opinions."""

from keylm.instructions.grammar import Genre

FORM = (
    "Name: [your name]",
    "Address: [your address]",
    "Phone: [phone number]",
    "Email: [email address]",
    "Date: [date]",
    "City: [city]",
    "Subject: [subject]",
    "Reference number: [number]",
    "To: [name of the recipient]",
    "Company: [company name]",
)

GENRES: dict[str, Genre] = {
    "leave": Genre(
        requests=(
            "Write an email to my boss asking for $day off because of $reason.",
            "I need $day off for $reason. Draft a message to my manager $name.",
            "Can you write a note to my manager that I will be away on $day? The reason is $reason.",
            "Compose a short email to $name, my supervisor, about taking $day off.",
        ),
        head="{Dear|Hello|Hi} $name,",
        body=(
            (
                "{I would like to ask|I am writing to ask} if I can take $day off.",
                "{The reason is|I need the day for} $reason.",
                "?I know that this comes at a busy time.",
            ),
            (
                "{All my urgent work will be done by the evening before|I will finish the report before I leave}.",
                "?My colleague $surname has agreed to answer my calls.",
                "?I will check my messages in the morning and again in the evening.",
            ),
            (
                "Please let me know {if this works for you|whether that is possible}.",
                "?Thank you for your understanding.",
            ),
        ),
        tail="{Best regards|Kind regards|Many thanks},\\n$name2",
        title="A day off",
        fill=FORM,
    ),
    "resign": Genre(
        requests=(
            "Write a letter of resignation from my job as a $job at $company.",
            "I am leaving my job as a $job. Draft a polite letter to my employer $company.",
            "Help me quit my job as a $job with a short and friendly letter.",
        ),
        head="Dear {Mr|Ms} $surname,",
        body=(
            (
                "{Please accept this letter as notice|With this letter I give notice} that I am leaving my position as $job at $company.",
                "My last day will be the {last|first} $day of $month.",
            ),
            (
                "I have {enjoyed|valued} my time here and have learned a great deal about $skill.",
                "?The decision was not easy for me.",
                "?I am thankful for the trust that you have placed in me.",
            ),
            (
                "I will do my best to {hand over my work in good order|train the person who comes after me}.",
                "?I wish you and the whole team every success.",
            ),
        ),
        tail="{Yours sincerely|Kind regards},\\n$name $surname2",
        title="Letter of resignation",
        fill=FORM,
    ),
    "complaint": Genre(
        requests=(
            "Write a complaint to $company about a $product. Tell them that $problem.",
            "I bought a $product from $company and $problem. Write them an angry but polite email.",
            "Compose a letter to the shop $company: my new $product is faulty because $problem.",
            "Help me ask $company for my money back. I bought a $product there and $problem.",
        ),
        head="Dear {customer service|Sir or Madam|team at $company},",
        body=(
            (
                "{Last week|On $day|Two weeks ago} I bought a $product from your {shop|online store}.",
                "{Sadly|I am sorry to say that} $problem.",
                "?This happened on the very first day.",
            ),
            (
                "{I expected better from a company with your good name|I had heard good things about your products}.",
                "?I have followed the manual step by step and it did not help.",
                "?A photo of the $product is attached to this message.",
            ),
            (
                "Please {send me a new one|give me my money back|let me know how I can return it}.",
                "{I look forward to your quick reply|I hope to hear from you within a week}.",
            ),
        ),
        tail="{Regards|Yours faithfully},\\n$name $surname",
        title="Complaint about a $product",
        fill=FORM,
    ),
    "thanks": Genre(
        requests=(
            "Write a thank you note to $name for the $gift.",
            "My friend $name gave me a $gift. Write a few lines to say thanks.",
            "Compose a thank-you letter to $name for the $gift I got.",
            "Thank $name for the birthday present, a $gift.",
        ),
        head="Dear $name,",
        body=(
            (
                "Thank you so much for the $gift!",
                "{You made my day|It made me very happy|I smiled all evening because of you}.",
                "?It was just what I needed.",
            ),
            (
                "{I think of you every time I look back on it|It shows how well you know me}.",
                "?Not many people are as thoughtful as you are.",
                "?I told everyone at home about it.",
            ),
            (
                "{I hope that we can meet again soon|Let us have tea together one of these days}.",
                "?You are always welcome here.",
            ),
        ),
        tail="{With love|Warmly|Your friend},\\n$name2",
        title="Thank you",
        fill=FORM,
    ),
    "invitation": Genre(
        requests=(
            "Write an invitation to a $event in $city.",
            "Invite my friends to a $event on $day.",
            "Draft a party invitation. It is a $event, on $day at $hour o'clock.",
            "I am planning a $event. Can you write the invitation for my neighbours?",
        ),
        head="{Dear friends|Hello everyone|Dear neighbours},",
        body=(
            (
                "You are invited to {our|a} $event!",
                "It takes place on $day at $hour o'clock {near the $place|in the garden behind the $place}.",
                "?The address is easy to find.",
            ),
            (
                "There will be {music|games|good company} and plenty of $food.",
                "?Children are welcome too.",
                "?If it rains we will simply move inside.",
            ),
            (
                "Please tell us by {Thursday|Wednesday|the end of the week} if you can come.",
                "?Bring nothing but a good mood.",
            ),
        ),
        tail="{See you soon|We look forward to it},\\n$name and $name2",
        title="You are invited",
        fill=FORM,
    ),
    "apology": Genre(
        requests=(
            "Write an apology to $name because I forgot the $event.",
            "I missed the $event of my friend $name. Help me say sorry.",
            "Write a message to $name to say sorry that I did not come to the $event.",
            "Compose an apology to $name. I was not at the $event although I had promised to come.",
        ),
        head="Dear $name,",
        body=(
            (
                "I am {very|truly|so} sorry that I {was not at|missed|did not come to} the $event.",
                "{It was my mistake and nobody else is to blame|I should have been more careful}.",
            ),
            (
                "I {understand|can see} that you were {upset|disappointed}.",
                "?I would have felt the same in your place.",
                "?There is no good excuse for it.",
            ),
            (
                "{Let me make up for it with a dinner|I will do all I can to put it right|It will not happen again}.",
                "?Please call me when you feel like it.",
            ),
        ),
        tail="{Yours|Sincerely},\\n$name2",
        title="An apology",
        fill=FORM,
    ),
    "meeting": Genre(
        requests=(
            "Write an email to my team about a meeting on $day at $hour.",
            "Tell my colleagues by email that we meet on $day to talk about the new $product.",
            "Draft a short message to my colleagues: meeting about our $product on $day at $hour o'clock.",
        ),
        head="{Hello all|Dear colleagues|Hi team},",
        body=(
            (
                "{We will meet|Our next meeting is} on $day at $hour o'clock in {room two|the large room|the kitchen}.",
                "The topic is {the launch of our new $product|how we can improve our $product}.",
            ),
            (
                "Please {read the notes from last time|bring your figures|think of two ideas} before you come.",
                "?We will be done within an hour.",
                "?$name will take notes.",
            ),
            ("{Write to me if you cannot make it|Let me know if the time does not suit you}.",),
        ),
        tail="{Thanks|See you there},\\n$name2",
        title="Meeting on $day",
        fill=FORM,
        points=(
            "Welcome and news of the week",
            "What went well with the $product",
            "What our customers say",
            "Plans for $month",
            "Costs and budget",
            "Who does what until the next meeting",
            "Questions from the team",
        ),
    ),
    "cover": Genre(
        requests=(
            "Write a cover letter for a job as a $job at $company.",
            "I want to apply as a $job. Draft my application letter to $company.",
            "Compose a short job application for the position of $job.",
        ),
        head="Dear hiring team,",
        body=(
            (
                "{I would like to apply|I am applying} for the position of $job.",
                "?I saw your advert {online|in the newspaper|at the $place}.",
            ),
            (
                "For {three|four|five|six} years I have worked as a $job in $city.",
                "My strengths are $skill and $skill2.",
                "?In my last job I was known for being on time and in a good mood.",
                "?I learn fast and I like to work with other people.",
            ),
            (
                "{I would be happy to tell you more in person|I look forward to meeting you}.",
                "?I could start in $month.",
            ),
        ),
        tail="Yours sincerely,\\n$name $surname",
        title="Application as $job",
        fill=FORM,
    ),
    "friend": Genre(
        requests=(
            "Write a letter to my friend $name about my trip to $city.",
            "Write to my old friend $name and tell them about my holiday in $city.",
            "Send a postcard text to $name from $city.",
            "Compose a letter to $name about my week in $city.",
        ),
        head="Dear $name,",
        body=(
            (
                "{How are you?|I hope that you are well.|It has been too long.}",
                "{I am writing to you from|Greetings from|I have just come back from} $city.",
            ),
            (
                "The weather has been {lovely|terrible|strange} and I spend my days near the $place.",
                "Yesterday I {ate far too much|walked for three hours|met a $adjective $animal}.",
                "?You would have laughed.",
                "?In the evening there was music and a plate of $food.",
            ),
            (
                "?I have also started with $hobby.",
                "{I miss you|You should visit me soon|Write back when you can}.",
            ),
        ),
        tail="{Love|Yours|Big hugs},\\n$name2",
        title="A letter to $name",
        fill=FORM,
    ),
    "advert": Genre(
        requests=(
            "Write an advertisement for a $product by $company.",
            "Write an ad for a new $product.",
            "Help me sell my $product with a short advert.",
            "Create a product description for a $product.",
            "Write a catchy text for the website of $company, which sells a $product.",
        ),
        body=(
            (
                "Meet the new $product from $company!",
                "It is {light|strong|simple|quiet} and made to last.",
                "{You will wonder how you ever lived without it|Once you have tried it you will never want another}.",
            ),
            (
                "{We tested it for a year in wind and weather|Every part can be repaired}.",
                "It comes in {three|four|five} colours and fits into every {home|bag|day}.",
                "?Our customers give it top marks.",
                "?Even a $animal would want one.",
            ),
            (
                "{Order today|Come by our shop in $city|Try it for thirty days} and {save a little money|get a free $gift}.",
            ),
        ),
        title="The $product you have been waiting for",
        points=(
            "Easy to use from the first day",
            "Strong material that lasts for years",
            "Light enough to take anywhere",
            "Friendly help by phone",
            "A fair price",
            "Two years of guarantee",
            "Made in $city",
            "Simple to clean",
        ),
        fill=(
            "Price: [price]",
            "Order at: [website]",
            "Shop: [address]",
            "Phone: [phone number]",
            "Offer ends: [date]",
            "Code: [code]",
        ),
    ),
    "social": Genre(
        requests=(
            "Write a tweet about $topic.",
            "Write a social media post about $topic.",
            "Create a short post about $topic for my page.",
            "Give me a status update about $topic.",
        ),
        body=(
            (
                "{Today I cannot stop thinking about|Here is a small thought about|Let us talk about} $topic.",
                "{I spent an hour at the $place and forgot the time|Life would be duller without it|It made me smile on my way to work}.",
                "?Who else feels this way?",
            ),
            (
                "{Tell me your story in the comments|Tag a friend who needs this|More photos tomorrow}!",
                "?Life is good.",
            ),
        ),
        title="A thought about $topic",
    ),
    "blog": Genre(
        whole=False,
        requests=(
            "Write a blog post about $hobby.",
            "Write an article about the joys of $hobby.",
            "Write an essay about $hobby.",
            "Write a short essay on why people like $hobby.",
            "Explain to a beginner how to get started with $hobby.",
            "Tell me about the benefits of $hobby.",
            "Write a persuasive text about taking up $hobby.",
        ),
        body=(
            (
                "Few things are as rewarding as $hobby.",
                "{It costs little and gives a lot|All you need is a bit of time}.",
                "Many people {start late|begin by chance} and then wonder why they waited so long.",
                "?I was one of them.",
            ),
            (
                "The first steps are {easy|simple} if you take them slowly.",
                "Find a quiet hour in the week and keep it free.",
                "It helps to have a friend who does the same.",
                "?You can learn the basics from a book or from a neighbour.",
                "Do not buy expensive things before you know what you like.",
            ),
            (
                "After a few weeks you will notice a change.",
                "Your head feels clearer and you sleep better at night.",
                "You also meet people whom you would never have met otherwise.",
                "?Some of them may become friends for life.",
            ),
            (
                "Of course there are bad days too.",
                "Sometimes nothing works and you want to give up.",
                "That is normal and it passes.",
                "The trick is to go on in small steps and to laugh about mistakes.",
            ),
            (
                "What I like best is that $hobby never gets old.",
                "There is always something new to try.",
                "You can do it alone or with others and at any age.",
                "?In $season it is even more fun.",
            ),
            (
                "So give it a try this weekend.",
                "Start small and stay curious.",
                "{You have nothing to lose|You may be surprised by how much you enjoy it}.",
            ),
        ),
        title="The joy of $hobby",
        points=(
            "It clears your head",
            "You meet new people",
            "It costs very little",
            "You can start at any age",
            "It gets you away from the screen",
            "Small steps lead to big progress",
            "It is fun in every season",
            "You learn from mistakes",
            "It gives your week a rhythm",
            "You can share it with friends",
        ),
    ),
    "itinerary": Genre(
        whole=False,
        requests=(
            "Plan a trip to $city for me.",
            "Write an itinerary for a weekend in $city.",
            "I am going to $city in $month. What should I do there?",
            "Make a travel plan for three days in $city.",
            "Write a travel guide for $city.",
        ),
        body=(
            (
                "Start your first day in $city with a walk through the old streets.",
                "{Have breakfast near the $place|Take a tram to the $place} and watch the city wake up.",
                "In the afternoon visit the largest museum.",
                "?Book the ticket one day ahead.",
            ),
            (
                "On the second day {take a boat or a bus out of town|rent a bicycle}.",
                "Eat where the locals eat and try the {soup|bread|sweets}.",
                "?Leave some time to do nothing at all.",
                "In the evening there is often music in the open air.",
            ),
            (
                "Keep the last day for {shopping|the gardens|friends}.",
                "Buy a small gift such as a $gift.",
                "?Be at the station an hour before you leave.",
                "You will want to come back to $city.",
            ),
        ),
        title="Three days in $city",
        points=(
            "Walk through the old town in the morning",
            "Visit the largest museum",
            "Have lunch at the market",
            "Rent a bicycle for half a day",
            "Watch the sunset from a hill or a tower",
            "Try the local bread and soup",
            "Take a boat trip if the weather is good",
            "Buy a small gift for someone at home",
            "Listen to music in the evening",
        ),
        fill=(
            "Hotel: [name of hotel]",
            "Flight: [flight number]",
            "Arrival: [date]",
            "Departure: [date]",
            "Guide: [name]",
            "Budget: [amount]",
        ),
    ),
    "resume": Genre(
        requests=(
            "Write a resume for a $job.",
            "Create a short CV for $name $surname, a $job from $city.",
            "Write a simple resume for someone who wants to become a $job.",
        ),
        body=(
            ("$name $surname", "$job from $city"),
            ("Experience: {three|five|eight|ten} years as a $job at $company", "Before that: assistant at $company2"),
            ("Skills: $skill and $skill2", "?Languages: English and {Spanish|French|German}"),
            ("Education: $school", "?Hobbies: $hobby"),
        ),
        title="$name $surname",
        verse=True,
        fill=FORM,
    ),
    "jobad": Genre(
        requests=(
            "Write a job advert for a $job at $company.",
            "$company is looking for a $job. Write the text for the newspaper.",
            "Write a job description for a $job.",
        ),
        body=(
            (
                "$company in $city is looking for a $job.",
                "You will work in a {small|friendly|busy} team and {learn something new every week|have your own projects}.",
            ),
            (
                "You should bring some experience and a talent for $skill.",
                "?Good English is a plus.",
                "?A driving licence helps but is not needed.",
            ),
            (
                "We offer {fair pay|flexible hours|thirty days of holiday} and free {coffee|fruit|parking}.",
                "Write to us before the end of $month.",
            ),
        ),
        title="$job wanted",
        points=(
            "Experience as a $job",
            "A talent for $skill",
            "Good English",
            "A friendly manner",
            "Work in a small team",
            "Fair pay",
            "Start in $month",
        ),
        fill=FORM,
    ),
    "review": Genre(
        requests=(
            "Write a short review of the $product from $company.",
            "Write an honest review of a $product made by $company.",
            "I bought a $product from $company. Write a review for me.",
        ),
        body=(
            (
                "{I bought the $product from $company with high hopes|A friend told me to try the $product from $company|I found the $product from $company by chance}.",
                "The first impression was {good|mixed|poor}.",
                "It {looks better than in the photo|is smaller than I thought} and {was easy to set up|took a while to set up}.",
            ),
            (
                "{What I liked best was the attention to detail|What annoyed me most was the packaging}.",
                "?The price is {fair|too high} for what you get.",
                "?I use it almost every day.",
            ),
            ("{I would buy it again|I would not buy it again|It deserves four stars out of five|Two stars from me}.",),
        ),
        title="My honest opinion",
    ),
}
