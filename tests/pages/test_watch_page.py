"""The page of `--mode=watch` in a real browser, on made-up trajectories."""

import json
import random
import re

import pytest

from elf_jax.pages.watch import watch_data, watch_frame, watch_page
from tests.pages.synthetic import prose, settling, trajectory, watched

STEPS = 10
HEBREW = ["של", "ום", " עו", "לם", ", ", "abc", " ", "مر", "حبا", " بال", "عا", "لم", "!"]
EMOJI = ["hi ", "👩", "\u200d", "👩", "\u200d👧", " ok ", "❤", "\ufe0f", " e", "\u0301", "👍", "🏽"]
SPACES = ["a", "  two", "\n", "\n", "line", "\t", "tab ", "x" * 300, " "]
EVIL = [
    "<script>window.bad = 1</script>",
    "</script><script>window.bad = 2</script>",
    "<!-- <script>",
    "<img src=x onerror='window.bad = 3'>",
    "\"'`${window.bad = 4}`",
    "&lt;b&gt; &amp;",
    "\u2028\u2029\\u003c\\",
    "\ud800",
    "]]>",
]
# Positions without a token, a text that gets shorter and longer again, a token of no letters.
GAPS = [
    [(-1, None)] * 5,
    [(-1, None), (7, " cat"), (-1, None), (9, ""), (-1, None)],
    [(5, "the"), (7, " cat"), (8, " s")],
    [(5, "the"), (7, " cat"), (8, " s"), (10, "at"), (-1, None), (-1, None)],
    [(5, "the"), (7, " cat"), (8, " s"), (10, "at"), (12, " é"), (9, "")],
]
FILL = trajectory(
    [[(1, "the"), (2, " cat"), (-1, None)], [(1, "the"), (2, " cat"), (3, " sat")]],
    template="the cat ___",
    given=[True, True, False],
)


@pytest.fixture(scope="module")
def samples():
    texts = [prose(30), HEBREW, EMOJI, SPACES]
    found = [settling(text, STEPS, seed) for seed, text in enumerate(texts)]
    return [*found, settling(EVIL, STEPS, 9, source=EVIL[0], reference=EVIL[3]), trajectory(GAPS)]


@pytest.fixture
def visit(browser, tmp_path):
    """Opens models' page from a file. At the end: no error, and no request but for the file."""
    path = tmp_path / "watch.html"

    def opened(models, title="a title", **window):
        path.write_text(watch_page(models, title), encoding="utf-8")
        browser.open(path, **window)
        return browser

    yield opened
    assert browser.errors() == []
    assert browser.requests() == [path.as_uri()]


def texts(browser):
    """All texts; U+FFFD in place of half surrogates, which no test can take out of a browser."""
    return browser.run(
        "return [...document.querySelectorAll('.text')].map((e) => e.textContent.toWellFormed())"
    )


def told(state):
    """The text of a state as `texts` gives it."""
    return state.text.replace("\ud800", "\ufffd")


def places(browser, name):
    """For each text, the positions with a class."""
    return browser.run(
        "return [...document.querySelectorAll('.text')].map((text) => "
        "[...text.children].flatMap((e, p) => e.classList.contains(arguments[0]) ? [p] : []))",
        name,
    )


def facts(browser):
    """For each text {name: value} of the numbers beside it."""
    return browser.run(
        "return [...document.querySelectorAll('.numbers')].map((list) => Object.fromEntries("
        "[...list.children].map((e) => [e.children[0].textContent, e.children[1].textContent])))"
    )


def where(browser):
    return browser.find("#where").text


def changes(one, index):
    """Positions whose token in a state is another one than in the state before."""
    now = one.states[index].tokens
    before = one.states[index - 1].tokens if index else []
    return [
        p
        for p, token in enumerate(now)
        if not one.given[p] and (p >= len(before) or before[p] != token)
    ]


def test_every_step_shows_what_the_data_says(visit, samples):
    page = visit([watched(*samples)])
    page.press("HOME")
    for index in range(STEPS):
        states = [one.states[min(index, len(one.states) - 1)] for one in samples]
        assert texts(page) == [told(state) for state in states]
        assert where(page) == f"step {index + 1} of {STEPS}"
        for one, state, fact, fresh in zip(
            samples, states, facts(page), places(page, "changed"), strict=True
        ):
            assert fact["changed"].split()[0] == str(state.changed)
            assert float(fact["entropy"].split()[0]) == pytest.approx(state.entropy, rel=5e-3)
            assert float(fact["time t"]) == pytest.approx(state.time, rel=5e-3)
            assert int(fact["evaluations"]) == state.evaluations
            shown = [p for p in changes(one, state.step - 1) if state.pieces[p] is not None]
            assert fresh == shown
        opened = [[p for p, piece in enumerate(s.pieces) if piece is None] for s in states]
        assert places(page, "open") == opened
        page.press("ARROW_RIGHT")


def test_a_token_is_settled_after_its_last_change(visit, samples):
    one = samples[0]
    page = visit([watched(one)])
    final = [max(i for i in range(STEPS) if p in changes(one, i)) for p in range(30)]
    colours = {}
    page.press("HOME")
    for index in range(STEPS):
        assert places(page, "settled") == [[p for p in range(30) if final[p] <= index]]
        assert places(page, "pending") == [[p for p in range(30) if final[p] > index]]
        for p in places(page, "settled")[0]:
            token = page.find_all(".text > *")[p] if p not in colours else None
            if token is not None:
                colours[p] = token.value_of_css_property("background-color")
                assert token.get_attribute("title") == f"settled at step {index + 1}"
        page.press("ARROW_RIGHT")
    lightness = {}
    for p, step in enumerate(final):
        lightness.setdefault(step, set()).add(luminance(colours[p]))
    assert all(len(found) == 1 for found in lightness.values())
    rising = [lightness[step].pop() for step in sorted(lightness)]
    assert rising == sorted(rising) and len(set(rising)) == len(rising) > 4


def luminance(colour):
    """The relative luminance of a CSS colour, as WCAG 2 defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read_in_light_and_dark(visit, dark):
    page = visit([watched(settling(prose(128), 64)), watched(FILL)], dark=dark)
    page.press("HOME", *["ARROW_RIGHT"] * 40)
    pairs = page.run(
        """
        const ground = (e) => {
          for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
          }
        };
        const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        return [...document.querySelectorAll("body *")].filter((e) => own(e) &&
          !["SCRIPT", "NOSCRIPT", "OPTION"].includes(e.tagName)).map((e) => [e.outerHTML,
          e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color,
          ground(e)]);
        """
    )
    assert len(pairs) > 100
    for element, ink, ground in pairs:
        assert contrast(ink, ground) >= 4.5, (element, ink, ground)
    body = page.find("body").value_of_css_property("background-color")
    assert (luminance(body) < 0.2) == dark


def test_slider_play_and_keys(visit, samples):
    page = visit([watched(samples[0])])
    last = f"step {STEPS} of {STEPS}"
    assert where(page) == last  # the finished text comes first
    page.press("ARROW_LEFT", "ARROW_LEFT")
    assert where(page) == f"step {STEPS - 2} of {STEPS}"
    page.press("HOME", "ARROW_LEFT")
    assert where(page) == f"step 1 of {STEPS}"
    page.press("END", "ARROW_RIGHT")
    assert where(page) == last
    slider = page.find("#slider")
    slider.click()  # in its middle
    assert where(page) in (f"step {STEPS // 2} of {STEPS}", f"step {STEPS // 2 + 1} of {STEPS}")
    place = int(slider.get_attribute("value"))
    assert texts(page) == [samples[0].states[place].text]
    assert slider.get_attribute("aria-valuetext") == where(page)
    page.press("ARROW_RIGHT")  # of the slider itself, which has the focus
    assert where(page) == f"step {place + 2} of {STEPS}"
    page.press("HOME")
    assert where(page) == f"step 1 of {STEPS}" and slider.get_attribute("value") == "0"


def test_playing_shows_every_step_in_order_and_can_be_stopped(visit):
    one = settling(prose(20), 5)
    page = visit([watched(one)])
    page.run(
        "window.seen = []; new MutationObserver(() => seen.push("
        "document.querySelector('.text').textContent)).observe(document.querySelector('.text'), "
        "{childList: true})"
    )
    button = page.find("#play")
    assert button.text == "Play"
    look = "return [arguments[0].textContent, document.getElementById('where').textContent]"
    assert page.run("arguments[0].click();" + look, button) == ["Pause", "step 1 of 5"]
    page.wait(lambda: button.text == "Play")
    seen = [text for text in page.run("return seen") if text]
    assert seen == [state.text for state in one.states]
    # The page itself presses the key and looks: it plays on while a test looks.
    played = """
        const [button, done] = arguments;
        const at = document.getElementById("where");
        const look = () => [button.textContent, at.textContent];
        const press = () => document.body.dispatchEvent(
          new KeyboardEvent("keydown", {key: " ", bubbles: true}));
        press();
        const first = look();
        new MutationObserver((_, self) => {
          if (at.textContent !== "step 2 of 5") return;
          self.disconnect();
          press();
          setTimeout(() => done([first, look()]), 1000);
        }).observe(at, {childList: true});
    """
    looks = page.driver.execute_async_script(played, button)
    assert looks == [["Pause", "step 1 of 5"], ["Play", "step 2 of 5"]]


def test_the_focus_is_seen_and_the_button_has_its_space_key(visit, samples):
    page = visit([watched(*samples[:2])])
    for name in ("play", "sample", "slider"):
        page.press("TAB")
        focused = page.driver.switch_to.active_element
        assert focused.get_attribute("id") == name
        assert focused.value_of_css_property("outline-style") == "solid"
        assert focused.accessible_name
    page.find("#play").send_keys(" ")
    assert page.find("#play").text == "Pause"
    page.find("#play").send_keys(" ")
    assert page.find("#play").text == "Play"


def test_one_sample_can_be_chosen(visit, samples):
    page = visit([watched(*samples)])
    shown = lambda: [e.is_displayed() for e in page.find_all(".sample")]  # noqa: E731
    assert shown() == [True] * 6
    page.find("#sample option[value='2']").click()
    assert shown() == [False, True, False, False, False, False]
    page.find("#sample option[value='all']").click()
    assert shown() == [True] * 6


def test_letters_join_across_tokens_and_directions_are_right(visit, samples):
    page = visit([watched(*samples)])
    directions = page.run(
        "return [...document.querySelectorAll('.text')].map((e) => e.matches(':dir(rtl)'))"
    )
    assert directions == [False, True, False, False, False, False]
    for index in (1, 2):
        widths = page.run(
            """
            const text = document.querySelectorAll(".text")[arguments[0]];
            const width = () => {
              const range = document.createRange();
              range.selectNodeContents(text);
              return range.getBoundingClientRect().width;
            };
            const inTokens = width();
            text.textContent = text.textContent;
            return [inTokens, width()];
            """,
            index,
        )
        assert widths[0] == pytest.approx(widths[1], abs=0.5)
    page.run("window.scrollTo(0, 0)")


def test_text_of_a_model_is_never_html(visit, samples):
    page = visit([watched(samples[4], name=EVIL[1])], title=EVIL[3])
    assert page.run("return window.bad") is None
    assert page.run("return document.scripts.length") == 2
    assert page.run("return document.images.length") == 0
    assert texts(page) == [told(samples[4].states[-1])]
    assert page.find("dd[data-of=source]").text == EVIL[0]
    assert page.find("dd[data-of=reference]").text == EVIL[3]
    assert page.driver.title == EVIL[3] == page.find("h1").text
    # If text ever became HTML, the page's policy would still not let it run.
    page.run("document.body.insertAdjacentHTML('beforeend', '<i onclick=\"window.bad = 5\">x</i>')")
    page.find("i").click()
    assert page.run("return window.bad") is None
    assert "Content Security Policy" in "".join(page.errors())


def test_models_go_in_step_by_network_evaluations(visit):
    one = [settling(prose(20, n), 8, n, cost=2) for n in range(2)]
    other = [settling(prose(20, n + 5), 4, n + 5, cost=5) for n in range(2)]
    page = visit([watched(*one, name="runs/a"), watched(*other, name="runs/b")])
    ticks = sorted({2 * n for n in range(1, 9)} | {5 * n for n in range(1, 5)})
    page.press("HOME")
    for tick in ticks:
        assert where(page) == f"{tick} of 20 network evaluations"
        expected = []
        for a, b in zip(one, other, strict=True):
            for states in (a.states, b.states):
                reached = [state.text for state in states if state.evaluations <= tick]
                expected.append(reached[-1] if reached else "")
        assert texts(page) == expected
        assert (facts(page)[1]["step"] == "not reached yet") == (tick < 5)
        page.press("ARROW_RIGHT")
    lefts = [text.rect["x"] for text in page.find_all(".text")]
    assert lefts[0] < 640 <= lefts[1] and lefts[:2] == lefts[2:]  # side by side


def test_what_is_given_is_told_from_what_is_not(visit):
    page = visit([watched(FILL)])
    page.press("HOME")
    assert (places(page, "given"), places(page, "open")) == ([[0, 1]], [[2]])
    assert int(page.find(".text .given").value_of_css_property("font-weight")) >= 700
    assert "given" in page.find("#legend").text and "no token yet" in page.find("#legend").text
    assert page.find("dd[data-of=template]").text == "the cat ___"
    page.press("END")
    assert places(page, "settled") == [[2]] == places(page, "changed")


def test_a_phone_does_not_scroll_sideways(visit, samples):
    long = settling(SPACES, STEPS, source="x" * 400, reference="word " * 60)
    page = visit([watched(*samples, long, name="runs/" + "long" * 40)], "t" * 200, width=390)
    for key in ("HOME", "ARROW_RIGHT", "END"):
        page.press(key)
        assert page.overflow() == 0
    two = [watched(*samples), watched(*samples, name="b")]
    page = visit(two, width=390)
    assert page.overflow() == 0
    lefts = {text.rect["x"] for text in page.find_all(".text")}
    assert len(lefts) == 1  # below each other
    assert min(page.find(one).rect["height"] for one in ("#play", "#slider", "#sample")) >= 32


@pytest.mark.parametrize("still", [False, True])
def test_nothing_moves_for_those_who_want_no_movement(visit, samples, still):
    page = visit([watched(samples[0])], still=still)
    name = page.find(".text .changed").value_of_css_property("animation-name")
    assert name == ("none" if still else "appear")


def test_eight_long_samples_are_less_than_two_megabytes(browser, tmp_path):
    draw = random.Random(0)
    pieces = [
        " " + "".join(chr(draw.randint(0x4E00, 0x9FFF)) for _ in range(2)) for _ in range(32000)
    ]

    def noise():
        row = [draw.randrange(32000) for _ in range(128)]
        return [(token, pieces[token]) for token in row]

    many = [trajectory([noise() for _ in range(64)]) for _ in range(8)]
    path = tmp_path / "watch.html"
    path.write_text(watch_page([watched(*many)], "large"), encoding="utf-8")
    assert path.stat().st_size < 2e6
    browser.open(path)
    assert texts(browser) == [one.states[-1].text for one in many]
    assert browser.errors() == []


def test_in_a_frame_a_trajectory_grows(browser, tmp_path, samples):
    def until(count):
        rows = [list(zip(s.tokens, s.pieces, strict=True)) for s in samples[1].states[:count]]
        return [watched(trajectory(rows))] if rows else [watched()]

    frame = watch_frame(watch_page(until(0), EVIL[1]), EVIL[3])
    path = tmp_path / "parent.html"
    script = "addEventListener('message', (e) => { window.told = e.data.watchHeight })"
    path.write_text(f"<meta charset=utf-8><script>{script}</script>{frame}", encoding="utf-8")
    browser.open(path)
    browser.wait(lambda: browser.run("return window.told > 100"))

    def inside(count=None):
        """What the frame shows; with `count`, after it was sent so many states."""
        if count is not None:
            send = "frames[0].postMessage({watch: JSON.parse(arguments[0])}, '*')"
            browser.run(send, json.dumps(watch_data(until(count))))
        browser.driver.switch_to.frame(0)
        if count is not None:
            browser.wait(lambda: where(browser).endswith(f" of {count}"))
        found = where(browser), texts(browser)
        browser.driver.switch_to.default_content()
        return found

    states = samples[1].states
    assert inside() == ("waiting for the first step", [])
    assert inside(1) == ("step 1 of 1", [states[0].text])
    assert inside(4) == ("step 4 of 4", [states[3].text])
    browser.driver.switch_to.frame(0)
    browser.find("#slider").send_keys("\ue012")  # arrow left: now the place is kept
    browser.driver.switch_to.default_content()
    assert inside(5) == ("step 3 of 5", [states[2].text])
    assert browser.run("return window.bad") is None
    assert browser.errors() == []
    assert not browser.requests_elsewhere()


def test_a_page_without_numbers_or_samples(visit):
    """As of a model whose entropy is not known, and of no model that has begun."""
    one = trajectory([[(1, "a")], [(2, "b")]])
    broken = [type(state)(**{**vars(state), "entropy": float("nan")}) for state in one.states]
    page = visit([watched(type(one)(**{**vars(one), "states": broken}))])
    assert facts(page)[0]["entropy"] == "– nats"
    page = visit([watched(type(one)(**{**vars(one), "states": one.states[:1]}))])
    assert where(page) == "step 1 of 1" and not page.find("#play").is_enabled()
