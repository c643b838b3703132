"""What people mistake by sound or habit: words taken for one another, spellings of one sound, forms of one word.

Invariant: no word stands for itself, and no alternative is listed twice. All of it was put together by hand for keylm,
from what every English teacher marks in red; how often each sort occurs is not here but in typo_rates.json.
"""

_SETS = """
their/there/they're  then/than  your/you're  its/it's  to/too/two  were/where/we're  of/off  lose/loose  affect/effect
accept/except  are/our  a/an  is/are  was/were  has/have  this/these  that/those  who/whom  whose/who's  by/buy
here/hear  no/know  now/know  new/knew  write/right  quite/quiet  through/threw  though/thought  weather/whether
which/witch  while/wile  week/weak  for/four  form/from  on/one  on/in  it/is  it/if  of/or  or/are  an/and
the/they  the/then  them/then  there/they  use/used  passed/past  peace/piece  principal/principle  advice/advise
practice/practise  choose/chose  lead/led  brake/break  bare/bear  complement/compliment  desert/dessert
hole/whole  hour/our  knight/night  made/maid  mail/male  meat/meet  plain/plane  pair/pear
role/roll  sale/sail  scene/seen  sea/see  sense/since  site/sight  some/sum  son/sun  stationary/stationery
steal/steel  tail/tale  wait/weight  waist/waste  wear/where  wood/would  sum/some  there/here  be/been  do/does
do/due  have/of  i/in  his/is  how/who  like/liked  may/maybe  might/must  more/most  can/could  will/would
breath/breathe  cloths/clothes  device/devise  ensure/insure  farther/further  formally/formerly  later/latter
moral/morale  personal/personnel  precede/proceed  than/that  the/to  as/is  at/and  not/now  with/which  thing/think
cant/can't  well/we'll  wont/won't  were/we're  ill/i'll  hell/he'll  shell/she'll  lets/let's  every/very
"""

CONFUSIONS: dict[str, tuple[str, ...]] = {}
"""Lower-case word: the words that stand in its place by mistake, each once, in a fixed order."""
for _set in _SETS.split():
    _words = _set.split("/")
    for _word in _words:
        _others = tuple(other for other in _words if other != _word and other not in CONFUSIONS.get(_word, ()))
        CONFUSIONS[_word] = CONFUSIONS.get(_word, ()) + _others

_RULES = """
ie>ei ei>ie ph>f f>ph able>ible ible>able ant>ent ent>ant ance>ence ence>ance ancy>ency ency>ancy
wh>w gh>g gu>g kn>n wr>r rh>r mn>m sc>s sc>c ps>s mb>m ck>k ck>c c>s s>c c>k k>c qu>kw z>s s>z g>j j>g
tion>sion sion>tion cian>tion er>or or>er ar>er er>ar ally>aly ly>ley ey>y y>i i>y ou>o ough>uff ea>e ee>ea
ea>ee ai>a eau>u ui>u ue>u ge>g dge>ge ful>full cede>ceed ceed>cede x>ks xc>x cc>x th>t ise>ize ize>ise
our>or or>our ei>e ie>e ae>e oe>e que>k que>ck ch>k ous>us ious>ous eous>ious uous>ous tious>cious
"""

PHONETIC_RULES: tuple[tuple[str, str], ...] = tuple(
    (clean, noisy) for clean, _, noisy in (rule.partition(">") for rule in _RULES.split())
)
"""(letters of the clean word, letters of the noisy word), lower case, anywhere in a word but at its first letter."""

ENDINGS: tuple[str, ...] = ("", "s", "es", "d", "ed", "ing", "ly", "r", "er", "e", "y", "ies", "al", "n")
"""Endings that are exchanged when the wrong form of a word is written."""
