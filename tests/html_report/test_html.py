"""The page as a browser meets it: one file, nothing loaded, everything escaped, whole without any of its sections."""

import base64
import dataclasses
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from simclr_jax import html_report
from simclr_jax.html_report import html as page

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=1>',
    "' onmouseover='alert(1)",
    "$x_{$",
    "{{ 7 * 6 }}{% raw %}",
    "</style></title></svg>",
    "日本語の分類",
]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# Elements that load or run something, none of which belongs on the page.
BANNED = {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "foreignobject"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction", "ping"}


class Page(html.parser.HTMLParser):
    """Parses a page strictly: an end tag without its start, or the reverse, is an AssertionError."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        """Opens an element."""
        assert len(dict(attrs)) == len(attrs), f"attribute given twice in <{tag}>"
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Takes an element which closes itself."""
        # Only SVG elements may close themselves.
        assert "svg" in self.open or tag in VOID, f"<{tag}/> outside SVG"
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        """Closes the innermost element."""
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        """Collects the words a reader sees."""
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        """All words, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        """Attributes of every element of this kind, in order."""
        return [attrs for name, attrs, _ in self.elements if name == tag]

    def values(self, *names):
        """Values of these attributes, in order."""
        return [value for _, attrs, _ in self.elements for name, value in attrs.items() if name in names]


def images(*shape, seed=0):
    """Soft blobs rather than noise: they compress as photographs do."""
    small = np.random.default_rng(seed).integers(0, 256, (*shape[:-3], 4, 4, 3), dtype=np.uint8)
    return small.repeat(shape[-3] // 4, axis=-3).repeat(shape[-2] // 4, axis=-2)


def probe_rows():
    scores = {"simclr": 0.8, "untrained": 0.5, "histogram": 0.3, "pixels": 0.4}
    return [
        {
            "features": name,
            "labels": share,
            "probe": probe,
            "accuracy": score,
            "standard_error": 0.01,
            "protocol": f"{probe}.v1",
            "num_labels": count,
        }
        for name, score in scores.items()
        for share, count in {"1%": 500, "10%": 5000, "100%": 50000}.items()
        for probe in ("knn", "linear")
    ]


def metric_rows(count):
    rng = np.random.default_rng(0)
    return [
        {
            "step": 10 * index,
            "epoch": index / 5,
            "loss": 5.0 / (1 + index) + rng.uniform(),
            "contrastive_accuracy": index / count,
            "contrastive_entropy": 2.0,
            "learning_rate": 0.1,
            "images_per_second": 3000.0,
            "knn_accuracy": 0.5 if index % 5 == 0 else None,
        }
        for index in range(count)
    ]


def contents(*, classes=("cat", "dog", "owl"), points=40, side=16, found=3, shown=4, steps=20, **changes):
    """A report with every section; `changes` replace fields."""
    rng, count = np.random.default_rng(0), len(classes)
    near = html_report.Neighbors(
        images(5, side, side, 3),
        images(5, found, side, side, 3),
        images(5, found, side, side, 3, seed=1),
        query_labels=np.arange(5) % count,
        learned_labels=np.tile(np.arange(5)[:, None] % count, found),
        pixel_labels=np.tile((np.arange(5)[:, None] + 1) % count, found),
    )
    place = html_report.Embedding(
        rng.normal(size=(points, 2)), np.arange(points) % count, images(points, side, side, 3)
    )
    fields = {
        "title": "simclr, resnet18 on digits",
        "config": {"seed": 0, "optim": {"learning_rate": 0.3, "schedule": {"warmup_epochs": 10}}},
        "environment": {"jax": "0.10.2", "device": "cpu"},
        "data": {"name": "digits", "sizes": {"train": 1348, "test": 449}, "classes": count, "skipped": ["a.png"]},
        "metrics": metric_rows(steps),
        "probes": probe_rows(),
        "collapse_value": 6.2,
        "chance": 0.1,
        "class_names": classes,
        "views": images(shown, 3, side, side, 3),
        "neighbors": near,
        "embedding": place,
        "confusion": html_report.Confusion(rng.integers(1, 20, (count, count))),
        "timing": {"training_seconds": 272, "images_per_second": 3000.0},
    }
    return html_report.ReportContents(**{**fields, **changes})


def brief(**changes):
    """Every section still, but with one curve and one panel of bars, which take most of the time to draw."""
    rows = [row for row in probe_rows() if row["labels"] == "10%" and row["probe"] == "linear"]
    metrics = [{"step": step, "loss": 1.0 / (1 + step)} for step in range(3)]
    return contents(**{"probes": rows, "metrics": metrics, **changes})


def render(report):
    text = html_report.render_report(report)
    return text, Page(text)


@pytest.fixture(scope="module")
def whole():
    return render(contents())


@pytest.fixture(scope="module")
def short():
    return render(brief())


def assert_sound(text, parsed):
    """What holds for every page, whatever it shows."""
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert not BANNED & {tag for tag, _, _ in parsed.elements}
    assert not [name for _, attrs, _ in parsed.elements for name in attrs if name.startswith("on")]
    for value in parsed.values(*ADDRESSES):
        assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) or value[1:] in ids, value[:80]
    # Styles could load as well: by url() or @import.
    styles = parsed.values("style") + re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    for style in [*styles, *parsed.values("clip-path", "fill", "mask", "filter")]:
        assert "@import" not in style
        assert all(target[1:] in ids for target in re.findall(r"url\(([^)]*)\)", style))


def test_page_loads_nothing(whole):
    text, parsed = whole
    assert_sound(text, parsed)
    assert "http://" not in text and "https://" not in text
    assert len(parsed.all("img")) == 4 * 3 + 5 * (1 + 3 + 3) + 1


def test_page_forbids_loading_by_its_content_security_policy(whole):
    policies = [attrs for attrs in whole[1].all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0]["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules


def test_page_is_a_complete_html_document(whole):
    text, parsed = whole
    assert text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    assert all(len(parsed.all(tag)) == 1 for tag in ("html", "head", "title", "body", "nav", "main", "h1"))
    assert {"charset": "utf-8"} in parsed.all("meta")
    assert all(attrs.get("alt") for attrs in parsed.all("img"))


def test_parser_of_these_tests_notices_broken_pages(whole):
    text, _ = whole
    for broken in (text.replace("</section>", "", 1), text.replace("<main>", "", 1), text + "</div>"):
        with pytest.raises(AssertionError):
            Page(broken)


def test_links_of_the_navigation_lead_to_the_sections_in_order(whole):
    links = [
        attrs["href"].removeprefix("#") for tag, attrs, above in whole[1].elements if tag == "a" and "nav" in above
    ]
    sections = [attrs["id"] for attrs in whole[1].all("section")]
    assert links == ["top", *sections]
    assert sections == ["probes", "curves", "views", "neighbors", "map", "confusion", "data", "settings"]


def test_same_contents_give_the_same_page(whole):
    assert html_report.render_report(contents()) == whole[0]


def test_page_tells_the_numbers_it_was_given(whole):
    _, parsed = whole
    for expected in (
        "simclr, resnet18 on digits",
        "With 10 % of the labels (5,000 images), a linear probe on the SimCLR representation",
        "★ 80.0 ± 1.0",
        "4 min 32 s training time",
        "190 steps 3.8 epochs",
        "1,348 training images 449 test",
        "15 of 15 by the representation, 0 of 15 by pixels",
        "warmup_epochs",
        "a.png",
    ):
        assert expected in parsed.text, expected


def test_views_and_neighbours_are_the_given_pictures(whole):
    uris = [attrs["src"] for attrs in whole[1].all("img")]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in uris[:19]]
    report = contents()
    np.testing.assert_array_equal(shown[:12], report.views.reshape(12, 16, 16, 3))
    near = report.neighbors
    np.testing.assert_array_equal(shown[12:], np.concatenate([near.queries[:1], near.learned[0], near.pixels[0]]))


SECTIONS = {
    "probes": ("probes", ()),
    "metrics": ("curves", ()),
    "views": ("views", None),
    "neighbors": ("neighbors", None),
    "embedding": ("map", None),
    "confusion": ("confusion", None),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("field", SECTIONS)
def test_what_is_absent_is_left_out_and_the_rest_stays(field, short):
    section, nothing = SECTIONS[field]
    text, parsed = render(brief(**{field: nothing}))
    assert_sound(text, parsed)
    everything = [attrs["id"] for attrs in short[1].all("section")]
    assert [attrs["id"] for attrs in parsed.all("section")] == [name for name in everything if name != section]
    assert {"href": f"#{section}"} not in parsed.all("a")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("field", "nothing"),
    [
        ("config", {}),
        ("environment", None),
        *(
            pytest.param(field, nothing, marks=pytest.mark.slow)
            for field, nothing in [
                ("config", None),
                ("environment", {}),
                ("data", None),
                ("data", {}),
                ("timing", None),
                ("timing", {}),
                ("chance", None),
            ]
        ),
        ("collapse_value", None),
        ("views", np.zeros((0, 3, 8, 8, 3), np.uint8)),
        ("embedding", html_report.Embedding(np.zeros((0, 2)))),
        ("confusion", html_report.Confusion(np.zeros((3, 3), int))),
        ("neighbors", html_report.Neighbors(*[np.zeros((0, *rest, 8, 8, 3), np.uint8) for rest in ((), (3,), (3,))])),
    ],
)
def test_page_is_sound_without(field, nothing, short):
    text, parsed = render(brief(**{field: nothing}))
    assert_sound(text, parsed)
    assert len(text) < len(short[0])


def test_classes_without_names_go_by_their_numbers():
    text, parsed = render(brief(class_names=()))
    assert_sound(text, parsed)
    assert "class 2" in parsed.text and "owl" not in parsed.text


@pytest.mark.parametrize("value", [None, float("nan")])
def test_caption_speaks_of_a_dashed_line_only_where_there_is_one(value, short):
    sentence = "Dashed: the loss if all representations were identical."
    assert sentence in short[1].text
    assert sentence not in render(brief(collapse_value=value))[1].text


def test_a_section_of_two_parts_goes_when_both_are_absent():
    text, parsed = render(brief(data=None, timing=None, config=None, environment=None))
    assert_sound(text, parsed)
    assert not {"data", "settings"} & set(parsed.values("id"))
    assert "training time" not in parsed.text


def test_page_of_a_title_alone_is_sound():
    text, parsed = render(html_report.ReportContents("nothing yet"))
    assert_sound(text, parsed)
    assert parsed.all("section") == [] and parsed.all("a") == [{"href": "#top"}]
    assert "nothing yet" in parsed.text


def test_only_metrics_that_were_logged_are_drawn():
    _, parsed = render(brief(metrics=[{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}]))
    labels = parsed.values("aria-label")
    assert [label for label in labels if "training step" in label] == ["Loss over the training step"]
    rows = [{"step": step, "text_to_image_recall_1": step / 4, "image_to_text_recall_1": step / 5} for step in (1, 2)]
    text, parsed = render(html_report.ReportContents("texts", metrics=rows))
    drawn = [label for label in parsed.values("aria-label") if "training step" in label]
    assert drawn == ["Retrieval during training, recall at 1 over the training step"]
    assert ">image to text recall 1<" in text and ">text to image recall 1<" in text


def test_unlabelled_data_makes_a_page_without_marks():
    report = brief(probes=(), confusion=None)
    near = dataclasses.replace(report.neighbors, query_labels=None, learned_labels=None, pixel_labels=None)
    place = html_report.Embedding(report.embedding.positions)
    text, parsed = render(dataclasses.replace(report, neighbors=near, embedding=place, class_names=()))
    assert_sound(text, parsed)
    assert "✓" not in parsed.text and "✗" not in parsed.text
    assert "class 0" not in parsed.text


def test_partly_labelled_data_mark_what_is_known_and_name_the_rest():
    report = brief(probes=(), notes=["No probes: no <test> image has a label."])
    near = dataclasses.replace(
        report.neighbors, query_labels=np.array([0, -1, -1, -1, 1]), learned_labels=np.array([[0, 1, -1]] * 5)
    )
    near = dataclasses.replace(near, pixel_labels=np.full((5, 3), -1), split="training")
    place = dataclasses.replace(report.embedding, labels=np.arange(40) % 3 - 1, split="training")
    text, parsed = render(dataclasses.replace(report, neighbors=near, embedding=place))
    assert_sound(text, parsed)
    # Two of the queries are labelled, each with two labelled neighbours of which one is of its class.
    assert parsed.text.count("✓ cat") == 1 and parsed.text.count("✓ dog") == 1 and parsed.text.count("✗") == 2
    assert "2 of 4 by the representation" in parsed.text and "unlabelled" in parsed.text
    assert "No probes: no <test> image has a label." in parsed.text
    assert "For some training images, the most similar others" in parsed.text
    assert "Map of the training images" in parsed.text and "test images;" not in parsed.text


@pytest.mark.slow
def test_neighbours_are_also_judged_over_many_test_images():
    report = contents()
    near = dataclasses.replace(report.neighbors, match_rates=(0.431, 0.297), num_matched=1000)
    text, _ = render(dataclasses.replace(report, neighbors=near))
    assert "over 1,000 test images 43 % and 30 %" in text
    assert "test images 43 %" not in render(report)[0]


def test_neighbours_with_an_unlabelled_query_are_not_judged():
    report = brief()
    near = dataclasses.replace(report.neighbors, query_labels=np.full(5, -1))
    _, parsed = render(dataclasses.replace(report, neighbors=near))
    assert "✓" not in parsed.text and "✗" not in parsed.text


@pytest.mark.parametrize("views", [1, 2, 3, 4, 5, 12])
def test_every_view_is_shown_once(views):
    report = html_report.ReportContents("views", views=images(views, 3, 8, 8, 3))
    assert len(render(report)[1].all("img")) == 3 * views


@pytest.mark.few(1)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_never_obeyed(text, short):
    rows = [{**row, "protocol": text} for row in probe_rows()[3:4]]
    rows += [{**rows[0], "features": text, "labels": text, "probe": text}]
    report = brief(
        title=text,
        classes=(text, "dog", text + "2"),
        config={text: {text: text}, "name": text},
        environment={text: text},
        data={"name": text, "sizes": {"train": 3, text: 4}, "skipped": [text], text: text},
        timing={"training_seconds": 1.0, "device": text},
        probes=rows,
    )
    near = dataclasses.replace(report.confusion, probe=text)
    place = dataclasses.replace(report.embedding, method=text)
    source, parsed = render(dataclasses.replace(report, confusion=near, embedding=place))
    assert_sound(source, parsed)
    assert "".join(parsed.words).count(text) >= 20
    assert text in parsed.values("title")
    # One more kind of features adds rows; it adds no kind of element or attribute.
    kinds = [{(tag, name) for tag, attrs, _ in p.elements for name in (*attrs, "")} for p in (parsed, short[1])]
    assert kinds[0] <= kinds[1]


def test_an_address_in_the_config_is_only_text():
    text, parsed = render(brief(config={"data": {"url": "https://example.org/a.zip"}}))
    assert_sound(text, parsed)
    assert "https://example.org/a.zip" in parsed.text


@pytest.mark.slow
def test_page_of_a_realistic_run_is_below_five_megabytes():
    names = [f"class number {index}" for index in range(100)]
    report = contents(classes=names, points=3000, side=64, found=8, shown=12, steps=5000)
    parts = {field.name: getattr(report.neighbors, field.name) for field in dataclasses.fields(html_report.Neighbors)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    near = html_report.Neighbors(**{name: np.repeat(part, 3, axis=0)[:12] for name, part in arrays.items()})
    text, parsed = render(dataclasses.replace(report, neighbors=near))
    assert_sound(text, parsed)
    assert len(text.encode()) < 5e6


@pytest.mark.slow
def test_page_stays_below_six_megabytes_even_for_noise_which_no_format_compresses():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (12, 3, 224, 224, 3), dtype=np.uint8)
    place = html_report.Embedding(rng.normal(size=(3000, 2)), thumbnails=noise)
    near = html_report.Neighbors(large[:, 0], large[:, 1:].repeat(4, axis=1), large[:, 1:].repeat(4, axis=1))
    assert (
        len(
            html_report.render_report(html_report.ReportContents("noise", views=large, neighbors=near, embedding=place))
        )
        < 6e6
    )


def test_write_report_makes_folders_and_replaces_an_older_page(tmp_path):
    target = tmp_path / "new" / "folder" / "report.html"
    html_report.write_report(html_report.ReportContents("first"), target)
    html_report.write_report(html_report.ReportContents("zweite 日本"), str(target))
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    assert target.read_text(encoding="utf-8") == html_report.render_report(html_report.ReportContents("zweite 日本"))


def test_names_of_files_with_bytes_that_are_no_text_do_not_stop_the_page(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    target = tmp_path / "report.html"
    html_report.write_report(brief(classes=(name, "b", "c"), data={"name": name, "skipped": [name]}), target)
    assert "caf?.png" in Page(target.read_text(encoding="utf-8")).text


def test_each_probe_has_a_row_of_bars_and_the_linear_one_the_first(monkeypatch):
    asked = []
    monkeypatch.setattr(page.figures, "bars", lambda panels, **_: asked.extend(title for title, _ in panels) or "")
    rows = [
        {"features": "simclr", "probe": probe, "labels": labels, "accuracy": 0.5, "num_labels": 8, "num_test": 9}
        for labels in ("10%", "100%")
        for probe in ("knn", "linear", "ridge")
    ]
    page._probe_section(page.ReportContents(title="t", probes=[{**row, "protocol": row["probe"]} for row in rows]))
    assert [title.partition(",")[0] for title in asked] == ["Linear probe"] * 2 + ["kNN"] * 2 + ["Ridge"] * 2
