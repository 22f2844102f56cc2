"""Pages as a browser reads them: whole, closed, with nothing that runs or comes from elsewhere."""

import html.parser
import re
import xml.etree.ElementTree

VOID = {"meta", "img", "br"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
KNOWN = VOID | set("html head title style body main h1 h2 p div table caption thead tbody tr th td "
                   "details summary figure figcaption strong svg desc g path line rect circle text "
                   "ul li span".split())


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open, self.unclosed = [], [], [], [], []
        self.feed(text)
        self.close()
        self.unclosed += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, name):
        return [value for _, given, value in self.attributes if given == name]


def check_page(case, text):
    """The page, after what holds of all of them."""
    page = Page(text)
    case.assertEqual(page.unclosed, [])
    case.assertEqual(set(page.tags) - KNOWN, set())
    case.assertEqual([a for a in page.attributes if a[1].startswith("on")], [])
    case.assertEqual([v for v in page.values("content") if "-src" in v], [POLICY])
    case.assertEqual([v for v in page.values("src") if not v.startswith("data:image/")], [])
    case.assertEqual(page.values("href"), [])
    outside = re.sub('src="data:image/[a-z]+;base64,[A-Za-z0-9+/=]*"', "", text)
    for word in ("http:", "https:", "//", "url(", "@import"):
        case.assertNotIn(word, outside)
    ids = page.values("id")
    case.assertEqual(len(ids), len(set(ids)))
    for svg in re.findall("<svg.*?</svg>", text, re.S):
        root = xml.etree.ElementTree.fromstring(svg)
        if root.get("role") == "img":
            case.assertEqual(root.get("aria-labelledby").split(),
                             [root.find("title").get("id"), root.find("desc").get("id")])
            case.assertTrue(root.find("title").text and root.find("desc").text)
        else:
            case.assertEqual(root.get("aria-hidden"), "true")
        for number in re.findall(r'\b(?:nan|inf)\b', svg):
            case.fail(number)
    return page
