"""Word lists of the rule-based rewriter, English and Chinese. Light: data only."""

from __future__ import annotations

import re


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_EN = words_of(
    """
    a an the this that these those such some any each every all both either neither no not only just also too very more most much many few
    several other another same and or but nor so yet if than then as at by for from in into of off on onto out over to toward towards under
    up upon with within without about above across after against along alongside amid among around before behind below beneath beside
    besides between beyond during inside near nearby next opposite outside past through throughout underneath until while where when which
    who whom whose what why how there here is are was were be been being am do does did done has have had having can could may might must
    shall should will would it its it's he him his she her hers they them their theirs you your yours we us our ours i me my mine one's
    itself himself herself themselves shows show shown depicts depict depicted features feature featured displays display displayed reads
    read says say said states state stated stands stand sits sit hangs hang lies lie appears appear includes include included contains
    contain contained presents present presented captures capture captured reveals forms form creates create created gives give given adds
    add added adding makes make made takes take seems seem looks look runs run rests rest leads fills fill filled highlights invites
    announces begins end ends follows followed accompanied complemented completed enhanced enhances evokes conveys reflects ensures allows
    draws draw guides guide suggests provides offers gently softly set placed positioned located arranged aligned centered centred situated
    labeled labelled titled named called marked paired surrounded resembling depicting image picture photo scene view overall immediately
    directly further finally first second third fourth lastly like etc e.g i.e per via plus away together apart well again still even ever
    already once less least lot bit entire whole various clearly neatly using used bring brings bringing stay stays feel feels remains keep
    keeps fully see seen let lets get gets though although emphasizes emphasize emphasizing utilizes utilize encourages encourage blend
    blends identifies identify indicates indicate elaborates elaborate expresses reflect reinforce reinforces contributes contribute catches
    catch helps help enhance promotes promote informs inform declares declare embellish embellishes illuminates illuminate decorates adorn
    adorns radiates exudes complements surrounds surround extends extend nothing none never lacking lacks else
    """
)
NOUNS_ING = words_of(
    """
    building painting lighting evening morning ceiling clothing boarding shopping wedding king ring wing spring string sibling dining living
    lettering heading greeting meeting setting engraving railing awning sling swing earring stocking pudding dressing icing frosting
    swimming camping fishing hiking cooking baking gardening parking landing opening rising offering rendering
    packaging styling branding shading wrapping seating flooring bedding farming sterling glowing shining flowing sparkling towering
    charming inviting inspiring striking appealing bustling smiling sleeping flying rolling blooming growing falling burning steaming
    floating gleaming calming
    """
)
"""Words in -ing that stay inside a phrase; others end it, since they begin what something does."""
ADJECTIVES_ING = words_of(
    """
    striking bustling smiling sleeping flying rolling blooming growing falling burning steaming floating gleaming calming glowing shining
    flowing sparkling towering charming inviting inspiring appealing sterling rising
    """
)
"""Those of them that cannot be a phrase's last word."""
PLACE_EN = re.compile(
    r"^(?:(?:upper|lower|top|bottom|left|right|main|central|center|centre|middle|far)[- ]?)+"
    r"(?:(?:side|corner|edge|part|section|half|third|center|centre|area|hand side)s?)?$",
    re.IGNORECASE,
)
TEXT_EN = words_of(
    """
    sign signs signboard billboard board chalkboard blackboard whiteboard title titles subtitle subtitles tagline headline heading headings
    header label labels caption captions bubble bubbles button buttons banner banners slogan poster logo menu note notes text texts line
    lines lettering letters inscription name brand price date tag ticket screen page cover plaque bumper sticker subheading subheader
    description message messages paragraph quote bullet footer link links tab field tooltip timestamp watermark stamp sentence phrase words
    word section item items chapter
    """
)
LIGHT_EN = re.compile(
    r"\b(light|lights|lighting|lit|sunlight|sunlit|daylight|moonlight|candlelight|backlit|backlight|glow|glows|glowing|shadows?|sunset|sunrise|dusk|dawn"
    r"|twilight|golden hour|illuminat\w*|neon|dim|overcast)\b",
    re.IGNORECASE,
)
STYLE_EN = re.compile(
    r"(\b(style|styles|styled|photograph\w*|illustration|illustrated|painting|render|rendering|vector|cinematic|watercolou?r|minimalist|minimalism"
    r"|aesthetic|aesthetics|realism|realistic|anime|manga|cartoon|comic|3d|2d|palette|tones?|mood|atmosphere|ambiance|ambience|vibe|vintage|retro"
    r"|depth of field|bokeh|sketch|line art|typography|high contrast|low contrast|pastel)\b|-style\b|-styled\b)",
    re.IGNORECASE,
)
OPENERS_EN = re.compile(
    r"^(?:(?:this|the)\s+(?:image|picture|photo|photograph|scene|illustration)\s+(?:shows|depicts|features|displays|presents|captures|is of|is|contains)"
    r"|(?:this|here|it)\s+is|there\s+(?:is|are)|an?\s+(?:image|picture|photo)\s+(?:of|showing|depicting|that shows|resembling))\s+",
    re.IGNORECASE,
)
"""Beginnings that say nothing but that there is a picture."""
FINITE_EN = re.compile(
    r"\b(is|are|was|were|stands|sits|hangs|shows|has|have|lies|reads|says|appears|appear|walks|runs|looks|rests|leans|fills|holds|wears|features"
    r"|displays|contains|glows|rises|stretches|floats|stand|sit|hang|captures|depicts|presents|includes|showcases|dominates|covers)\b"
)
RELATIVE_EN = re.compile(r"\b(that|which|who|whose|where|featuring|with|showing|displaying|depicting|captured|of)\b", re.IGNORECASE)

OPENERS_ZH = re.compile(
    r"^(?:以下是[^。：]*[。：]\s*)?(?:(?:这|这里|该|此)(?:是|张|幅|个)*(?:图片|图像|照片|画面|图)?(?:是|采用了?|展示了?|呈现了?|描绘了?|为)?|画面(?:是|为|中是|采用了?|展示了?|呈现了?|描绘了?)|图中(?:是|为)?|图片(?:是|为|展示了?))"
)
MEASURE_ZH = "[一两二三四五六七八九十数几]+(?:张|幅|个|名|位|只|条|辆|座|家|块|把|件|副|群|枚|本|杯|棵|朵|片|组|排|行|栋|台|部|艘|匹|头|盘|串|款|套|处|段|种|顶|排|层|道)"
SPLIT_ZH = re.compile(
    "(?:显示着|显示为|显示|写着|写有|印着|印有|标注着|标注为|标注|标有|呈现出一种|呈现出|呈现着|呈现|采用了?|展示着|展示了|展示|展现出|展现|带有|包含了?|包括|位于|悬浮着|"
    "(?:水平|整齐|横向|垂直)?排列着|排布着|排列|放置着|放着|伫立着|竖立着|立着|配有|配以|围绕着|环绕着|以及|并且|(?:且|并)?充满了?|形成了?|绘制了|透出|投射出|列有|散发着|营造出|使得|搭配|"
    "附有|设有|点缀着|盛着|摆放着|漂浮着|占据|捕捉了|融合了|仿佛|如同|看起来|可以看到|可见|隐约|表明|体现|突出了?|强调|引导|确保|增强了?|增加了?|营造|紧跟着?|紧接着?|紧邻着?|叠加了|"
    "有着|具有|簇拥着|内?正?放着|的是|(?<![但于可还就])是(?!否)|(?<![所具没富印写标还拥仍])有(?![的趣机效]))"
)
"""Verbs between two things: the parts are phrases of their own. Verbs of wearing and holding stay, since they tell people apart."""
LEADING_ZH = re.compile(
    f"^(?:{MEASURE_ZH}(?!$)|[这该那][一种些]?|其中|同时|此外|另外|它们?|她们?|他们?|但|以及|整体(?!$)|画面(?!$)|图中|背景[为是](?=.{{6}})|旁边|一些|各种|许多|大量|非常|"
    "十分|略显|略微|部分(?!$)|例如|比如|主要(?=[是为])|只能|能够|可以|辨认出|[而且及和与或则均都也还便就其为是着了的等]|[，、：；。—\\-\\s]|\\d+[.、)）])+"
)
TRAILING_ZH = re.compile("(?:的|了|着|为|在|与|及|等|之|并|而|内正|静静|[，、：；。—\\-\\s])+$")
NOTHING_ZH = re.compile(
    "(?:^|[上下左右前后内外里旁侧处方间中])(?:[上下左右前后内外里旁侧处方中间]|上面|下面|中央|边缘|区域|部分|位置|周围|旁边|附近)$|文字|字样|标题|字体|正文|字符|配文|文本|名称|网址|标签|^数字$|"
    "依次|显眼$|一[家个张条]$|处于|^主体$|以下|详细|手机屏幕$|^屏幕$|^画面$|^[^的]{1,4}[上下左右前后内外里旁侧处方]$|^[^的]{2,8}(?:上方|下方|左侧|右侧|两侧|中央|中部|底部|顶部|中心|左上角|右上角|左下角|右下角|前景处|阴影处)$|^第.行|注：|分别为|在.*上$|^[^的、]{2,3}、[^的、]{2,3}$|因[^的]{1,3}$|^(?:没有?|毫无|不含|不要|不带|不见|无任何|避免|既|正?[上下]方以|[左右][上下]角$|确保|使|让|进一步|提升|提高|增强|鼓励|引导|便于|完美契合|用于|统一|以便|供|在[^的]*$|上面用)|(?:整齐|清晰|优雅|都|位置)$"
)
"""Phrases that say only where something is, or speak of writing, which is listed by itself."""
MENTION_ZH = re.compile("(?:所谓|解释|流行的|像是|仿佛|从[^，]*里|一种[^，]*)$")
MENTION_AFTER_ZH = re.compile("^\\s*(?:概念|构图|效果|一样|一般|般|的?(?:感觉|艺术感|氛围|意境|意味|理念|概念|故事))")
"""Quotes that name a thing rather than stand written in the picture."""
ROLE_END_ZH = re.compile(
    "(?:显示着?为?|写着|写有|书写着?|印着|印有|标注着?为?|标有|标明|标示着?|展示着?|呈现着?|列有|宣告着?|补充道|写道|说道?|问道?|回应道?|内容为|内容是|为|是|有|着|道|名为|的|上面|"
    "[：:，、—\\-\\s])+$"
)
ROLE_NOUN_ZH = re.compile("(?:[题字签牌钮称案语址容明文板框条栏名标单号幕志接目项纸段]|Logo|按钮)$")
ROLE_NOTHING_ZH = re.compile("^(?:的?文字|字样|配文|文案|内容|说明|正文|短语|标语|名|题|字)$")
LIGHT_ZH = re.compile("(?<!发)光线|灯光|照明|光影|阴影|逆光|背光|余晖|阳光|光照|暮光|晨光|反光|月光|高调|低调|光芒|明暗")
STYLE_ZH = re.compile(
    "风格|质感|主?色调|氛围|美学|插画|摄影|渲染|画风|写实|水彩|油画|素描|胶片|动漫|二次元|对比度|科技感|艺术感|空气感|美感|手绘"
)
LOOK_START_ZH = re.compile("^(?:整体|画面(?:整体)?(?:光线|呈现|氛围|色调|风格)|光线|灯光|照明|氛围|色调|风格|画风)")
LOOK_START_EN = re.compile(
    r"^(?:the (?:overall )?(?:lighting|light|style|mood|atmosphere|colou?r palette|palette|colou?rs)|lighting|style|overall|soft light|warm light)\b",
    re.IGNORECASE,
)
"""Sentences about light or style begin so; they may stand last."""
COLOUR_ZH = re.compile("[红橙黄绿蓝青紫粉白黑灰棕褐米金银彩]色|透明|发光|圆|方|大|小|长|短")
