"""The English vocabulary of the generators: topics, each with nouns, verbs and adjectives that go together, and names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Words of one subject: singular nouns by kind, transitive verbs in their base form, adjectives."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    acts: tuple[str, ...]
    qualities: tuple[str, ...]


def _topic(people: str, things: str, places: str, acts: str, qualities: str) -> Topic:
    lists = (tuple(words.split()) for words in (people, things, places, acts, qualities))
    return Topic(*lists)


TOPICS = (
    _topic(
        "cook baker waiter guest butcher grocer host taster",
        "soup onion pepper sauce oven kettle spoon plate recipe butter garlic lemon bread cheese salt flour knife bowl pan "
        "tomato potato apron noodle dumpling vinegar cinnamon mushroom pickle",
        "kitchen pantry bakery restaurant market cellar counter",
        "taste boil roast season serve slice peel bake pour mash melt whisk",
        "salty sweet bitter fresh spicy crisp hot raw tender greasy sour smoked",
    ),
    _topic(
        "sailor captain pilot fisher diver passenger smuggler surveyor",
        "boat anchor rope sail wave tide reef net compass lantern chart mast hull cargo storm buoy current oar crew signal "
        "ferry harpoon wreck pearl gull",
        "harbour island beach lighthouse bay dock coast strait lagoon",
        "anchor steer tow launch sight unload follow rescue cross chart board paint",
        "calm rough salted deep distant drifting northern shallow windy leaking tidal",
    ),
    _topic(
        "engineer mechanic operator inspector apprentice welder designer driver",
        "engine pump valve gear bearing spring cable motor pipe bolt sensor battery wheel lever filter turbine gauge crane "
        "piston hose switch fuse shaft bracket weld",
        "workshop factory garage plant depot yard mine",
        "repair tighten replace test install inspect measure assemble lubricate weld adjust calibrate",
        "rusty loose heavy precise electric worn hollow rigid noisy hydraulic spare",
    ),
    _topic(
        "judge lawyer witness clerk tenant landlord officer juror",
        "contract clause claim appeal verdict statute licence permit fine deed evidence complaint hearing oath penalty rule "
        "lease will patent warrant petition charge treaty",
        "court office chamber registry prison parliament archive",
        "sign approve reject amend dispute review enforce cite grant submit suspend witness",
        "legal binding void written public strict valid disputed formal joint federal",
    ),
    _topic(
        "doctor nurse patient surgeon dentist pharmacist carer midwife",
        "fever wound bandage pill vaccine lung heart kidney muscle nerve bone symptom dose needle mask scan tooth allergy "
        "infection pulse stretcher ward therapy tumour cough",
        "hospital clinic pharmacy laboratory surgery corridor ambulance",
        "examine treat heal diagnose monitor bandage inject disinfect observe comfort relieve admit",
        "chronic acute sterile painful healthy swollen mild severe infected pale rare",
    ),
    _topic(
        "singer drummer composer conductor pianist dancer listener organist",
        "song violin drum melody chord rhythm trumpet guitar score chorus flute bell record album verse tempo cello stage "
        "ballad opera microphone encore tune harmony piano",
        "theatre studio club hall cathedral ballroom festival",
        "play rehearse compose perform record hum tune praise repeat arrange improvise sample",
        "loud soft slow lively minor gentle solemn bright hoarse rhythmic acoustic",
    ),
    _topic(
        "programmer user admin analyst tester hacker maintainer architect",
        "server file query index cache thread packet token branch buffer schema cluster module pointer kernel socket queue "
        "commit patch script password table lambda compiler namespace callback",
        "network terminal repository cloud database directory sandbox",
        "compile deploy parse refactor encrypt merge debug index revert validate upload profile",
        "async nested stale parallel immutable null local remote cached lazy atomic deprecated",
    ),
    _topic(
        "hunter ranger forester hiker botanist trapper woodcutter camper",
        "oak fern deer fox owl moss trail root branch leaf wolf stream nest berry pine bark axe cabin acorn badger thorn "
        "squirrel antler lichen beetle",
        "forest valley ridge clearing meadow swamp cave gorge",
        "track plant follow gather climb fell photograph feed protect frighten watch explore",
        "wild green dense silent muddy ancient mossy hidden shady fallen steep",
    ),
    _topic(
        "mayor cyclist commuter shopkeeper neighbour tourist painter builder",
        "street tram bridge tower bus window lamp bench sign fountain crossing taxi brick poster roof balcony elevator kiosk "
        "pavement statue traffic billboard umbrella doorbell",
        "city station square park museum library suburb alley café",
        "visit rebuild clean rent widen close decorate demolish light pave cross share",
        "crowded narrow modern busy central empty grey noisy urban elegant shabby",
    ),
    _topic(
        "meteorologist observer farmer traveller reporter student volunteer scientist",
        "rain cloud frost thunder breeze fog hail snow drought flood sunrise lightning rainbow temperature pressure humidity "
        "front season forecast blizzard puddle monsoon barometer cyclone",
        "plain coast mountain observatory desert horizon delta",
        "predict measure record expect survive observe map report study delay endure describe",
        "cold humid sunny cloudy frozen sudden tropical dry mild extreme gusty",
    ),
    _topic(
        "goalkeeper coach runner referee swimmer champion rival fan",
        "ball goal race medal trophy team score whistle record track match helmet racket penalty season jersey sprint league "
        "tournament final hurdle glove marathon paddle",
        "stadium pool gym field arena court finish",
        "train defeat chase coach tackle pass challenge cheer score injure praise replace",
        "fast fit tired injured fair brave professional olympic muscular nervous winning",
    ),
    _topic(
        "teacher pupil professor librarian tutor headmaster researcher parent",
        "lesson book pencil essay exam desk grade chalk notebook lecture theory library question answer chapter ruler treatise "
        "diploma homework globe bell course footnote dictionary",
        "school classroom university seminar playground campus dormitory",
        "teach explain correct learn mark discuss solve copy translate revise memorize quote",
        "clever curious patient difficult simple obvious abstract quiet strict lazy academic",
    ),
    _topic(
        "banker trader accountant investor broker cashier auditor customer",
        "loan bond budget invoice share tax coin profit debt price fund ledger deposit receipt salary asset market interest "
        "dividend currency mortgage premium pension surplus cheque",
        "bank exchange office vault branch shop auction",
        "invest borrow audit transfer insure trade estimate purchase discount value refund approve",
        "cheap expensive annual quarterly volatile fixed rising liquid monthly rich bankrupt",
    ),
    _topic(
        "farmer shepherd vet milker gardener beekeeper miller harvester",
        "cow sheep tractor barn fence seed wheat corn hen egg goat plough hay orchard apple honey soil harvest bucket wool "
        "pumpkin rooster lamb saddle compost cabbage",
        "farm field stable garden pasture mill greenhouse",
        "harvest milk plant water feed shear breed fertilize weed raise sow collect",
        "ripe organic fertile wooden fat woolly rural stubborn dusty golden early",
    ),
    _topic(
        "astronaut astronomer physicist navigator technician specialist explorer dreamer",
        "star planet moon orbit rocket comet galaxy telescope probe meteor satellite crater eclipse gravity module antenna "
        "nebula asteroid capsule spectrum photon quasar shuttle dust",
        "space observatory station crater platform desert universe",
        "orbit discover launch detect observe photograph dock calculate map visit explore track",
        "dark infinite bright distant solar lunar stellar weightless dense magnetic red",
    ),
    _topic(
        "chemist biologist lecturer intern inventor reviewer glassblower assistant",
        "acid molecule crystal enzyme polymer flask solvent atom electron catalyst salt oxide protein compound mixture burner "
        "pipette isotope vapour alloy membrane reagent cell gene",
        "laboratory storeroom hood reactor basement institute refinery",
        "dissolve heat distil isolate analyse dilute oxidize mix filter freeze label weigh",
        "pure toxic acidic volatile organic soluble stable inert liquid radioactive neutral",
    ),
    _topic(
        "tailor weaver seamstress model merchant knitter dyer cobbler",
        "thread needle shirt coat silk button wool scarf sleeve pattern loom linen boot hat ribbon pocket velvet collar zipper "
        "leather glove seam denim fabric",
        "shop attic boutique mill fair wardrobe laundry",
        "sew stitch fold iron dye measure mend wear wash weave embroider shorten",
        "tight striped woollen torn elegant plain colourful silky thick faded handmade",
    ),
    _topic(
        "porter conductor guide hostess backpacker stranger pilgrim photographer",
        "ticket suitcase map passport train hotel luggage camera flight key postcard route tent visa souvenir guidebook "
        "delay platform border caravan blanket rucksack journey currency",
        "airport hostel platform border village temple harbour",
        "pack book miss board cross photograph recommend admire unpack postpone plan reach",
        "foreign cheap delayed exotic tired remote scenic unforgettable overnight direct lost",
    ),
    _topic(
        "minister senator voter candidate spokesman activist diplomat governor",
        "election vote law debate speech party policy reform coalition budget campaign ballot dispute treaty press scandal "
        "referendum protest majority cabinet embassy strike rumour mandate",
        "capital parliament embassy province republic district senate",
        "elect propose oppose negotiate criticize promise support announce resign ratify denounce finance",
        "liberal national corrupt popular secret radical neutral diplomatic stable controversial unanimous",
    ),
    _topic(
        "child grandmother uncle twin baby cousin aunt father",
        "toy cradle photo birthday cake blanket secret puzzle story bicycle kitten letter box candle garden dream mirror "
        "blanket swing marble sofa wedding quarrel lullaby",
        "house bedroom attic porch nursery kitchen treehouse",
        "hug remember hide kiss scold surprise share open promise carry visit miss",
        "young old happy sleepy curious lonely proud gentle noisy shy spoiled",
    ),
    _topic(
        "philosopher monk priest believer sceptic poet scholar prophet",
        "truth soul mind reason doubt virtue argument idea meaning faith paradox being cause freedom language logic dogma "
        "wisdom judgement memory illusion proof beauty",
        "temple academy monastery church library desert agora",
        "doubt define defend refute contemplate assume question believe deny imagine distinguish accept",
        "moral absurd eternal rational possible necessary true false holy vague profound",
    ),
    _topic(
        "knight king queen servant thief wizard merchant giant",
        "sword castle crown dragon shield horse spell ring treasure curse armour throne dungeon potion feast banner torch "
        "arrow riddle goblet prophecy tower moat dagger",
        "kingdom palace forest tavern bridge cavern tower",
        "guard conquer steal betray enchant challenge rescue curse bury worship capture serve",
        "brave cruel noble cursed magical loyal evil royal enormous wise invisible",
    ),
    _topic(
        "painter sculptor curator collector critic potter photographer visitor",
        "canvas portrait brush frame sculpture sketch colour clay mural shadow line gallery easel mosaic pigment exhibition "
        "landscape engraving vase varnish masterpiece palette collage",
        "gallery studio museum atelier courtyard workshop salon",
        "paint draw sketch exhibit restore carve admire frame collect glaze copy photograph",
        "abstract blue vivid delicate unfinished famous strange transparent baroque crimson ugly",
    ),
    _topic(
        "editor journalist author publisher translator columnist printer reader",
        "article headline novel page paragraph column draft interview quote source magazine deadline scoop margin ink plot "
        "cover review footnote caption manuscript sequel obituary rumour",
        "newsroom desk press bookshop archive agency basement",
        "edit publish write rewrite print leak translate summarize quote read delete ban",
        "anonymous weekly exclusive brief printed literary biased unknown illustrated boring daily",
    ),
)

ADVERBS = tuple(
    "slowly quickly often never always rarely quietly suddenly carefully almost gladly hardly usually again finally "
    "probably perhaps certainly simply barely twice once already soon still together alone everywhere loudly badly "
    "well politely cheerfully secretly openly exactly roughly mostly partly nearly later today yesterday tonight "
    "tomorrow weekly directly gently eagerly reluctantly accidentally deliberately patiently clumsily bravely "
    "honestly".split()
)
OPENERS = tuple(
    "However|Meanwhile|Afterwards|Surprisingly|In the evening|Last winter|For years|After lunch|Without warning|Before dawn|"
    "By then|Naturally|On Tuesday|Once more|Little by little|At first|To be fair|Strictly speaking|Nowadays|Moreover|"
    "Until recently|As usual|According to the notes|For example|In theory|In practice|Back then|Somehow|Unfortunately|"
    "Luckily|Every spring|During the break|From a distance|At midnight|Despite the rain|Thanks to luck|Instead|Otherwise|"
    "Consequently|Nevertheless|Hence|Eventually|Frankly|Incidentally|Apparently|Out of habit|Against all odds".split("|")
)
NAMES = tuple(
    "Anna Ben Carla David Elena Felix Grace Hugo Irene Jonas Karim Laura Marta Nina Oscar Paula Quentin Rosa Samuel "
    "Tara Umar Vera Walter Xenia Yusuf Zoe Aisha Bruno Clara Diego Esther Farid Gloria Henry Isabel Jack Kofi Lucia "
    "Miguel Nadia Omar Peter Rachel Simon Teresa Victor Wendy Akira Bianca Chen Dmitri Emma Fatima George Hannah "
    "Ivan Julia Kevin Linda Mohamed Naomi Oliver Priya Robert Sofia Thomas Ursula Vikram Wei Yara Zach Alice Arthur "
    "Beatrice Charles Daniel Edith Frank Maria John Sarah Michael Emily James Mary William Kate Tom Lily Max Ruth "
    "Leo Eva Sam Ali Kim Ray".split()
)
SURNAMES = tuple(
    "Adler Brown Castillo Duarte Evans Fischer Gupta Hansen Ito Jansen Kowalski Lopez Moreau Nakamura Okafor Petrov "
    "Quinn Rossi Schmidt Tanaka Ueda Vargas Weber Xu Yilmaz Zhang Abbott Baker Clark Dixon Ellis Foster Grant "
    "Hughes Irving Johnson King Lewis Miller Nelson Owens Parker Reid Stone Turner Underwood Vance Wilson Young "
    "Khan Singh Park Nguyen Silva".split()
)
CITIES = tuple(
    "Lisbon Oslo Cairo Lima Kyoto Prague Nairobi Toronto Seville Hanoi Quito Riga Delhi Boston Lagos Vienna Tunis "
    "Perth Ghent Osaka Dublin Krakow Bergen Tbilisi Accra Havana Jakarta Montreal Naples Zurich Berlin Paris London "
    "Madrid Rome Tokyo Chicago Denver Austin Seattle Sydney Mumbai Moscow Athens Geneva Milan Houston Dallas "
    "Atlanta Vancouver".split()
)
MONTHS = tuple("January February March April May June July August September October November December".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
NUMERALS = tuple("two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty ninety".split())
RELATIONS = tuple("behind near under above beside inside outside beyond around against between along across past".split())
GENERAL = tuple(
    "thing way day man woman world life hand part place case week company system program work government number "
    "night point home water room area money fact month lot right study book eye job word business issue side kind "
    "head service friend power hour game line end member car community name president body information back face "
    "others level door reason morning moment air force foot age process music group problem country example state "
    "change shape method result value model paper light piece order surface version effect purpose detail "
    "difference field section choice corner figure space unit type view task test user term turn image list key "
    "step board ground period pair rest rate fire weight plan sound centre skill matter action event tree product "
    "hope interest share letter role base object trade damage origin limit layer signal source target record volume "
    "response region pattern path option code chance balance nature distance height length width depth strength "
    "speed energy mass heat cost quality average total sum ratio factor".split()
)
VERBS = tuple(
    "use find give tell call try ask need become leave put mean keep let begin help talk start show hear move like "
    "live believe hold bring happen provide stand lose pay meet include continue set learn change lead understand "
    "watch follow stop create speak allow add spend grow open walk offer remember love consider appear buy wait "
    "serve die send expect build stay fall reach remain suggest raise pass sell require report decide pull return "
    "explain develop carry break receive agree support hit produce eat cover catch draw choose cause point listen "
    "realize place involve increase represent apply contain reduce establish improve manage avoid assume describe "
    "prevent select handle check drop push connect compare define generate update remove insert load print parse "
    "format merge split count convert extract fetch store render resolve search sort validate encode decode "
    "register dispatch emit flush iterate map reset".split()
)
DESCRIBING = tuple(
    "good new first last long great little old right big high different small large next early young "
    "important few public bad same able main certain clear recent single free open whole special full common poor "
    "natural current similar final general real close strong possible private past foreign nice late hard major "
    "serious ready short human local available likely low left cold final wrong double quick random visible "
    "basic complex direct internal external active broad custom default empty extra exact formal global initial "
    "linear minor normal optional partial primary proper raw relative safe secondary separate sharp smooth solid "
    "specific standard static temporary typical unique upper usual valid variable virtual warm wide".split()
)
FUNCTION_WORDS = tuple(
    "the of and to in is it that was for on are with as be this have from or had by but not what all were when we "
    "there can an your which their said if do will each about how up out them then she many some so these would "
    "into has more her him see could no than been who its now did get come made may over any our here both those "
    "such only through because where much before too while should well also after most another even must every "
    "under might against again off between being why until whether though although since yet upon among during "
    "within without toward despite unless whose whom ours theirs himself herself itself myself nothing something "
    "everything anyone nobody someone everyone either neither several".split()
)
