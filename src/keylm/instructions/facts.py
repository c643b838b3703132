"""Questions on common knowledge, answered from small tables."""

from random import Random

from keylm.instructions.drafts import capitalised, fix_articles
from keylm.instructions.tables import phrase_tables
from keylm.text.sentences import counted

_FACTS = phrase_tables().facts


def fact(random: Random) -> tuple[str, str]:
    """Return a question on common knowledge and its answer."""
    table = _FACTS.tables[random.choice(list(_FACTS.tables))]
    a, b = random.choice(table.pairs)
    question = fix_articles(capitalised(random.choice(table.asks).format(a=a, b=b)))
    answer = random.choice(table.answers).format(a=a, b=b)
    return question, answer if answer == b else fix_articles(capitalised(answer))


def listing(random: Random) -> tuple[str, str]:
    """Return a request for a few things of a kind, and a list of them."""
    kind = random.choice(list(_FACTS.lists))
    count = random.randint(1, 6)
    things = random.sample(_FACTS.lists[kind], count)
    number = counted(count, spelt=True)
    if count == 1:
        request = random.choice(_FACTS.listing.one).format(kind=kind)
        answer = random.choice(_FACTS.listing.one_answers)
        return request, answer.format(thing=things[0], capital=capitalised(things[0]))
    template = random.choice(_FACTS.listing.some)
    request = template.format(kind=kind, n=random.choice((number, str(count))))
    style = random.random()
    if style < 0.4:
        return request, f"{capitalised(', '.join(things[:-1]))} and {things[-1]}."
    if style < 0.7:
        return request, "\n".join(f"* {capitalised(thing)}" for thing in things)
    if style < 0.85:
        return request, "\n".join(f"{place}. {capitalised(thing)}" for place, thing in enumerate(things, 1))
    row = f"{', '.join(things[:-1])} and {things[-1]}"
    return request, _FACTS.listing.introduced.format(n=number, kind=kind, things=row)
