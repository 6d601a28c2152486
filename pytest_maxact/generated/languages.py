"""Sentences of many languages: any subject, predicate and ending of one language make a sentence in it.

Subjects are singular, and where predicates agree in gender masculine. They are in the present tense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_maxact.generated.chance import Chance


@dataclass(frozen=True)
class Language:
    """Parts of sentences, and what stands between them and after the last."""

    subjects: tuple[str, ...]
    predicates: tuple[str, ...]
    endings: tuple[str, ...]
    space: str = " "
    stop: str = "."
    after: str = " "

    def sentence(self, chance: Chance) -> str:
        """One of all its sentences."""
        parts = (chance.pick(self.subjects), chance.pick(self.predicates), chance.pick(self.endings))
        text = self.space.join(parts)
        return text[:1].upper() + text[1:] + self.stop + self.after


def _language(subjects: str, predicates: str, endings: str, space: str = " ", stop: str = ".", after: str = " ") -> Language:
    return Language(_parts(subjects), _parts(predicates), _parts(endings), space, stop, after)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


LATIN = (
    _language(  # German
        "der Bäcker|meine Nachbarin|ein müder Kater|das Kind|unser Lehrer|die Gärtnerin|niemand|jeder Gast|wer früh aufsteht",
        "kauft frisches Brot|sucht den Schlüssel|öffnet das Fenster|repariert die Uhr|liest einen Brief|kennt das Lied|malt",
        "am frühen Morgen|trotz des Regens|im Garten|ohne ein Wort|vor dem Bahnhof|für seine Tochter|zwischen zwei Terminen",
    ),
    _language(  # French
        "le boulanger|ma voisine|un vieux chat|l'enfant|notre professeur|personne d'autre|chaque invité|celui qui arrive tôt",
        "achète du pain|cherche la clé|ouvre la fenêtre|répare l'horloge|lit une lettre|connaît la chanson|dessine une maison",
        "tous les matins|malgré la pluie|dans le jardin|sans un mot|devant la gare|pour sa fille|entre deux rendez-vous|à midi",
    ),
    _language(  # Spanish
        "el panadero|mi vecina|un gato viejo|la niña|nuestro profesor|cada invitado|quien madruga|el capitán",
        "compra pan fresco|busca la llave|abre la ventana|arregla el reloj|lee una carta|conoce la canción|dibuja una casa",
        "por la mañana|a pesar de la lluvia|en el jardín|sin decir nada|frente a la estación|para su hija|después de comer",
    ),
    _language(  # Italian
        "il fornaio|la mia vicina|un gatto nero|la bambina|il nostro maestro|ogni ospite|chi arriva presto|lo zio",
        "compra il pane|cerca la chiave|apre la finestra|ripara l'orologio|legge una lettera|conosce la canzone|disegna",
        "di mattina|nonostante la pioggia|in giardino|senza una parola|davanti alla stazione|per sua figlia|dopo cena",
    ),
    _language(  # Portuguese
        "o padeiro|a minha vizinha|um gato velho|a menina|o nosso professor|cada convidado|quem chega cedo|o capitão",
        "compra pão fresco|procura a chave|abre a janela|conserta o relógio|lê uma carta|conhece a canção|desenha uma casa",
        "de manhã|apesar da chuva|no jardim|sem dizer nada|em frente à estação|para a filha|depois do almoço",
    ),
    _language(  # Dutch
        "de bakker|mijn buurvrouw|een oude kat|het kind|onze leraar|iedere gast|wie vroeg opstaat|de schipper",
        "koopt vers brood|zoekt de sleutel|opent het raam|repareert de klok|leest een brief|kent het liedje|tekent een huis",
        "in de ochtend|ondanks de regen|in de tuin|zonder iets te zeggen|voor het station|voor zijn dochter|na het eten",
    ),
    _language(  # Swedish
        "bagaren|min granne|en gammal katt|barnet|vår lärare|varje gäst|den som kommer tidigt|kaptenen",
        "köper färskt bröd|söker nyckeln|öppnar fönstret|lagar klockan|läser ett brev|kan sången|ritar ett hus",
        "på morgonen|trots regnet|i trädgården|utan ett ord|framför stationen|åt sin dotter|efter middagen",
    ),
    _language(  # Polish
        "piekarz|moja sąsiadka|stary kot|dziecko|nasz nauczyciel|każdy gość|nikt inny nie przychodzi, a dziadek|kapitan",
        "kupuje świeży chleb|szuka klucza|otwiera okno|naprawia zegar|czyta list|zna piosenkę|rysuje dom",
        "rano|mimo deszczu|w ogrodzie|bez słowa|przed dworcem|dla swojej córki|po obiedzie",
    ),
    _language(  # Czech
        "pekař|moje sousedka|starý kocour|dítě|náš učitel|každý host|kapitán",
        "kupuje čerstvý chléb|hledá klíč|otevírá okno|opravuje hodiny|čte dopis|zná tu píseň|kreslí dům",
        "každé ráno|navzdory dešti|na zahradě|beze slova|před nádražím|pro svou dceru|po obědě",
    ),
    _language(  # Turkish
        "fırıncı|komşum|yaşlı kedi|çocuk|öğretmenimiz|her misafir|kaptan",
        "sabahları|yağmura rağmen|bahçede|tek söz etmeden|istasyonun önünde|kızı için|yemekten sonra",
        "taze ekmek alıyor|anahtarı arıyor|pencereyi açıyor|saati tamir ediyor|mektup okuyor|bir ev çiziyor",
    ),
    _language(  # Finnish
        "leipuri|naapurini|vanha kissa|lapsi|opettajamme|jokainen vieras|kapteeni",
        "ostaa tuoretta leipää|etsii avainta|avaa ikkunan|korjaa kelloa|lukee kirjettä|osaa laulun|piirtää talon",
        "aamulla|sateesta huolimatta|puutarhassa|sanaakaan sanomatta|aseman edessä|tyttärelleen|illallisen jälkeen",
    ),
    _language(  # Hungarian
        "a pék|a szomszédom|egy öreg macska|a gyerek|a tanárunk|minden vendég|a kapitány",
        "friss kenyeret vesz|keresi a kulcsot|kinyitja az ablakot|megjavítja az órát|levelet olvas|házat rajzol",
        "reggel|az eső ellenére|a kertben|szó nélkül|az állomás előtt|a lányának|vacsora után",
    ),
    _language(  # Indonesian
        "tukang roti|tetangga saya|seekor kucing tua|anak itu|guru kami|setiap tamu|kapten",
        "membeli roti segar|mencari kunci|membuka jendela|memperbaiki jam|membaca surat|menggambar rumah",
        "pada pagi hari|meskipun hujan|di kebun|tanpa berkata apa-apa|di depan stasiun|untuk anaknya|setelah makan",
    ),
    _language(  # Vietnamese
        "người thợ bánh|chị hàng xóm|con mèo già|đứa bé|thầy giáo|mỗi vị khách|thuyền trưởng",
        "mua bánh mì|tìm chìa khóa|mở cửa sổ|sửa đồng hồ|đọc một lá thư|hát bài hát cũ|vẽ ngôi nhà",
        "vào buổi sáng|dù trời mưa|trong vườn|mà không nói gì|trước nhà ga|cho con gái|sau bữa tối",
    ),
    _language(  # Swahili
        "mwokaji|jirani yangu|mtoto|mwalimu wetu|kila mgeni|nahodha",
        "ananunua mkate|anatafuta ufunguo|anafungua dirisha|anatengeneza saa|anasoma barua|anachora nyumba",
        "asubuhi|ingawa mvua inanyesha|bustanini|bila kusema neno|mbele ya kituo|baada ya chakula",
    ),
    _language(  # Romanian
        "brutarul|vecina mea|o pisică bătrână|copilul|profesorul nostru|fiecare oaspete|căpitanul",
        "cumpără pâine|caută cheia|deschide fereastra|repară ceasul|citește o scrisoare|desenează o casă",
        "dimineața|în ciuda ploii|în grădină|fără un cuvânt|în fața gării|pentru fiica lui|după cină",
    ),
    _language(  # Latin
        "agricola|puella|nauta|magister|discipulus|rex|poeta",
        "panem emit|clavem quaerit|fenestram aperit|epistulam legit|carmen cantat|domum pingit",
        "prima luce|in horto|sine verbo|ante portam|post cenam|cum fratre",
    ),
    _language(  # Icelandic
        "bakarinn|nágranninn|gamall köttur|barnið|kennarinn okkar|hver gestur|skipstjórinn",
        "kaupir nýtt brauð|leitar að lyklinum|opnar gluggann|gerir við klukkuna|les bréf|teiknar hús",
        "á morgnana|þrátt fyrir rigninguna|í garðinum|án þess að segja orð|fyrir framan stöðina|eftir matinn",
    ),
)

SCRIPTS = (
    _language(  # Russian
        "пекарь|моя соседка|старый кот|ребёнок|наш учитель|каждый гость|капитан|никто не спит, и дедушка",
        "покупает свежий хлеб|ищет ключ|открывает окно|чинит часы|читает письмо|знает эту песню|рисует дом",
        "рано утром|несмотря на дождь|в саду|без единого слова|перед вокзалом|для своей дочери|после обеда",
    ),
    _language(  # Ukrainian
        "пекар|моя сусідка|старий кіт|дитина|наш учитель|кожен гість|капітан",
        "купує свіжий хліб|шукає ключ|відчиняє вікно|лагодить годинник|читає лист|малює будинок",
        "вранці|попри дощ|у саду|без жодного слова|перед вокзалом|після обіду",
    ),
    _language(  # Bulgarian
        "пекарят|съседката ми|старата котка|детето|нашият учител|всеки гост|капитанът",
        "купува пресен хляб|търси ключа|отваря прозореца|поправя часовника|чете писмо|рисува къща",
        "сутрин|въпреки дъжда|в градината|без дума|пред гарата|след обяд",
    ),
    _language(  # Greek
        "ο φούρναρης|η γειτόνισσά μου|μια γριά γάτα|το παιδί|ο δάσκαλός μας|κάθε καλεσμένος|ο καπετάνιος",
        "αγοράζει φρέσκο ψωμί|ψάχνει το κλειδί|ανοίγει το παράθυρο|διορθώνει το ρολόι|διαβάζει ένα γράμμα|ζωγραφίζει ένα σπίτι",
        "κάθε πρωί|παρά τη βροχή|στον κήπο|χωρίς λέξη|μπροστά στον σταθμό|μετά το φαγητό",
    ),
    _language(  # Arabic
        "الخباز|جاري القديم|الطفل الصغير|معلمنا|كل ضيف|القبطان|الطبيب",
        "يشتري خبزا طازجا|يبحث عن المفتاح|يفتح النافذة|يصلح الساعة|يقرأ رسالة طويلة|يرسم بيتا أبيض",
        "في الصباح الباكر|رغم المطر|في الحديقة|دون أن يقول كلمة|أمام المحطة|بعد العشاء",
    ),
    _language(  # Persian
        "نانوا|همسایه‌ام|گربه پیر|بچه|معلم ما|هر مهمان|ناخدا",
        "هر روز صبح|با وجود باران|در باغ|بدون یک کلمه|روبروی ایستگاه|بعد از شام",
        "نان تازه می‌خرد|کلید را می‌جوید|پنجره را باز می‌کند|ساعت را تعمیر می‌کند|نامه‌ای می‌خواند|خانه‌ای می‌کشد",
    ),
    _language(  # Hebrew
        "האופה|השכן שלי|חתול זקן|הילד|המורה שלנו|כל אורח|רב החובל",
        "קונה לחם טרי|מחפש את המפתח|פותח את החלון|מתקן את השעון|קורא מכתב|מצייר בית",
        "מוקדם בבוקר|למרות הגשם|בגינה|בלי לומר מילה|מול התחנה|אחרי ארוחת הערב",
    ),
    _language(  # Hindi
        "बेकर|मेरा पड़ोसी|बूढ़ा आदमी|बच्चा|हमारा शिक्षक|हर मेहमान|कप्तान",
        "सुबह सुबह|बारिश के बावजूद|बगीचे में|बिना कुछ कहे|स्टेशन के सामने|खाने के बाद",
        "ताज़ी रोटी खरीदता है|चाबी ढूँढता है|खिड़की खोलता है|घड़ी ठीक करता है|चिट्ठी पढ़ता है|घर बनाता है",
        stop="।",
    ),
    _language(  # Bengali
        "রুটিওয়ালা|আমার প্রতিবেশী|বুড়ো বিড়াল|ছেলেটি|আমাদের শিক্ষক|প্রত্যেক অতিথি",
        "সকালে|বৃষ্টি সত্ত্বেও|বাগানে|কিছু না বলে|স্টেশনের সামনে|খাওয়ার পরে",
        "তাজা রুটি কেনে|চাবি খোঁজে|জানালা খোলে|ঘড়ি ঠিক করে|চিঠি পড়ে|একটি বাড়ি আঁকে",
        stop="।",
    ),
    _language(  # Tamil
        "ரொட்டிக்காரர்|என் பக்கத்து வீட்டுக்காரர்|ஆசிரியர்|மாலுமி|தாத்தா",
        "காலையில்|மழையிலும்|தோட்டத்தில்|எதுவும் பேசாமல்|நிலையத்தின் முன்|சாப்பிட்ட பிறகு",
        "ரொட்டி வாங்குகிறார்|சாவியைத் தேடுகிறார்|ஜன்னலைத் திறக்கிறார்|கடிதம் படிக்கிறார்|வீடு வரைகிறார்",
    ),
    _language(  # Thai
        "คนทำขนมปัง|เพื่อนบ้านของฉัน|แมวแก่|เด็ก|ครูของเรา|แขกทุกคน|กัปตัน",
        "ซื้อขนมปังสด|หากุญแจ|เปิดหน้าต่าง|ซ่อมนาฬิกา|อ่านจดหมาย|ร้องเพลงเก่า|วาดบ้าน",
        "ในตอนเช้า|แม้ฝนตก|ในสวน|โดยไม่พูดอะไร|หน้าสถานี|หลังอาหารเย็น",
        space="",
        stop="",
    ),
    _language(  # Georgian
        "მცხობელი|ჩემი მეზობელი|ბებერი კატა|ბავშვი|ჩვენი მასწავლებელი|ყოველი სტუმარი",
        "დილით|წვიმის მიუხედავად|ბაღში|უსიტყვოდ|სადგურის წინ|ვახშმის შემდეგ",
        "პურს ყიდულობს|გასაღებს ეძებს|ფანჯარას აღებს|საათს აკეთებს|წერილს კითხულობს|სახლს ხატავს",
    ),
    _language(  # Armenian
        "հացթուխը|իմ հարևանը|ծեր կատուն|երեխան|մեր ուսուցիչը|ամեն հյուր",
        "հաց է գնում|բանալին է փնտրում|պատուհանն է բացում|ժամացույցն է նորոգում|նամակ է կարդում|տուն է նկարում",
        "առավոտյան|չնայած անձրևին|այգում|առանց խոսքի|կայարանի դիմաց|ընթրիքից հետո",
        stop="։",
    ),
    _language(  # Chinese
        "面包师|我的邻居|一只老猫|那个孩子|我们的老师|每位客人|船长|奶奶|早起的人",
        "每天早上|冒着雨|在花园里|一句话也不说就|在车站前|晚饭后|周末常常|悄悄地",
        "买新鲜的面包|寻找钥匙|打开窗户|修理钟表|读一封长信|唱那首歌|画一座房子|等待消息",
        space="",
        stop="。",
        after="",
    ),
    _language(  # Traditional Chinese
        "麵包師傅|隔壁的阿姨|老貓|孩子們|數學老師|每位客人|船長",
        "清晨時|不顧大雨|在後院|默默地|在車站前面|晚餐後",
        "買剛出爐的麵包|尋找鑰匙|打開窗戶|修理時鐘|讀一封長信|畫一棟房子",
        space="",
        stop="。",
        after="",
    ),
    _language(  # Japanese
        "パン屋は|隣の人は|年を取った猫は|子どもは|先生は|どの客も|船長は|祖母は",
        "毎朝|雨の中で|庭で|何も言わずに|駅の前で|夕食のあとで|ときどき",
        "焼きたてのパンを買う|鍵を探す|窓を開ける|時計を直す|手紙を読む|古い歌を歌う|家の絵を描く",
        space="",
        stop="。",
        after="",
    ),
    _language(  # Korean
        "제빵사는|내 이웃은|늙은 고양이는|아이는|우리 선생님은|모든 손님은|선장은",
        "아침마다|비가 와도|정원에서|말없이|역 앞에서|저녁을 먹은 뒤에",
        "신선한 빵을 산다|열쇠를 찾는다|창문을 연다|시계를 고친다|편지를 읽는다|집을 그린다",
    ),
    _language(  # Telugu
        "బేకరీ యజమాని|మా పక్కింటాయన|మా గురువు|తాతయ్య|కెప్టెన్",
        "ఉదయం|వర్షంలో|తోటలో|ఏమీ మాట్లాడకుండా|భోజనం తర్వాత",
        "రొట్టె కొంటాడు|తాళం వెతుకుతాడు|కిటికీ తెరుస్తాడు|ఉత్తరం చదువుతాడు|ఇల్లు గీస్తాడు",
    ),
    _language(  # Amharic
        "ጎረቤቴ|ልጁ|አስተማሪያችን|እንግዳው|አያቴ",
        "ጠዋት|በአትክልቱ ውስጥ|ምንም ሳይናገር|ከጣቢያው ፊት|ከእራት በኋላ",
        "ዳቦ ይገዛል|ቁልፍ ይፈልጋል|መስኮት ይከፍታል|ደብዳቤ ያነባል|ቤት ይሥላል",
        stop="።",
    ),
)


def latin(chance: Chance, size: int) -> Iterator[str]:
    """Sentences of one language that is written in Latin letters; `size` is no matter."""
    return _sentences(chance, LATIN)


def scripts(chance: Chance, size: int) -> Iterator[str]:
    """Sentences of one language that is written in other letters; `size` is no matter."""
    return _sentences(chance, SCRIPTS)


def _sentences(chance: Chance, languages: tuple[Language, ...]) -> Iterator[str]:
    language = chance.pick(languages)
    while True:
        yield language.sentence(chance)
