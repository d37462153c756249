"""The served page: in a real browser, by programs, for two people at a time, and with bad input."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from selenium.common.exceptions import TimeoutException

from elf_jax import commands
from elf_jax.checkpoints.rounds import Round, round_workdir, write_distillation
from elf_jax.core.errors import UserError
from elf_jax.methods.registry import METHODS, build_method
from elf_jax.pages import served_settings
from elf_jax.pages.served_model import Compiling, Running, Step
from elf_jax.pages.served_run import Run, Turns
from tests.command import ROOT
from tests.methods.test_every_method import V, mesh_of, settings
from tests.tiny import save_random_weights, tiny_config

TEMPLATE = "latin ___ [[2]] <b>with</b> ${6*7} {{a}}"
MANY = 200  # steps, for work that is still going on when the next line of a test is run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A model of names with random weights. Its texts differ from seed to seed."""
    keys = {"data.tokenizer": "words", "data.packing": "rows", "data.length": 32}
    keys |= {"method": "mdlm", "sample.sampler": "ancestral", "sample.batch_size": 4}
    config = tiny_config(**{**keys, "optimizer.ema": 0.0})
    return save_random_weights(config, tmp_path_factory.mktemp("serve") / "names")


@contextlib.contextmanager
def serving(served):
    """Yields the address of a page, which is served by a thread."""
    from elf_jax.pages.served import served_page
    from elf_jax.pages.served_server import address_of, listen, server_of

    with listen("127.0.0.1", 0) as listening:
        server = server_of(served, served_page(served))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def served(workdir):
    return commands.served_model(workdir)


@pytest.fixture(scope="module")
def address(served):
    with serving(served) as found:
        yield found


def asked(address, path, body, kind="application/json"):
    """(code, answer) of a request; a body of None only reads."""
    request = urllib.request.Request(address + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def outputs_of(address, task, *values):
    """What a program gets that does a task: the status, HTML of the texts, the view, the texts."""
    path = f"/gradio_api/call/{task}"
    code, answer = asked(address, path, json.dumps({"data": values}).encode())
    assert code == 200, answer
    code, events = asked(address, f"{path}/{json.loads(answer)['event_id']}", None)
    assert code == 200 and "event: complete\n" in events, events
    return json.loads(events.split("event: complete\ndata: ")[1].split("\n")[0])


def values_of(served, task, **changes):
    """The values of all settings of a task, with some changes."""
    return [changes.get(one.name, one.value) for one in served.tasks[task]]


def click(browser, task, button="start"):
    browser.run("document.getElementById(arguments[0]).click()", f"{task}-{button}")


def text_of(browser, place):
    """The text of a part of the page."""
    script = "return document.getElementById(arguments[0]).innerText.trim()"
    return browser.run(script, place)


def texts_of(browser, task):
    """The texts that the page shows."""
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
    return browser.run(script, f"#{task}-texts .text")


def wait_for(browser, task, word, texts):
    """Waits until the status has a word and the page shows these texts: it draws them apart."""
    browser.wait(lambda: word in text_of(browser, f"{task}-status"))
    with contextlib.suppress(TimeoutException):
        browser.wait(lambda: texts_of(browser, task) == texts, 10)
    assert texts_of(browser, task) == texts


def test_sampling_in_a_browser(browser, address, workdir):
    browser.open(address, width=390)
    browser.wait(lambda: browser.find_all("#sample-start"))
    click(browser, "sample")
    texts = [text for _, text in commands.samples(workdir)]
    wait_for(browser, "sample", "Done", texts)
    (frame,) = browser.wait(lambda: browser.find_all("#sample-frame iframe"))
    browser.driver.switch_to.frame(frame)
    page = "return document.body ? document.body.innerText : ''"
    browser.wait(lambda: "step 3 of 3" in browser.run(page))  # the last one reads
    assert all(text in browser.run(page) for text in texts)
    browser.driver.switch_to.default_content()
    assert browser.overflow() <= 0
    assert not browser.errors()
    assert browser.requests() and not browser.requests_elsewhere()


def test_filling_in_a_browser_and_a_mistake_before(browser, address, workdir):
    browser.open(address)
    browser.wait(lambda: browser.find_all("button[role=tab]"))
    (tab,) = (one for one in browser.find_all("button[role=tab]") if one.text == "Fill gaps")
    tab.click()
    browser.wait(lambda: browser.find_all("#fill-start"))
    click(browser, "fill")
    wait_for(browser, "fill", "empty", [])
    assert text_of(browser, "fill-status") == "The template is empty: write something."
    (box,) = (one for one in browser.find_all("textarea") if one.is_displayed())
    box.send_keys(TEMPLATE)
    click(browser, "fill")
    records = list(commands.fills(workdir, text=TEMPLATE, num_samples=3))
    wait_for(browser, "fill", "Done", [record["text"] for record in records])
    assert not browser.errors() and not browser.requests_elsewhere()


def test_rewriting_by_a_program(address, served, workdir):
    settings = values_of(served, "rewrite", strength=0.75, num_samples=2)
    *_, view, texts = outputs_of(address, "rewrite", "latin letter", *settings)
    wanted = commands.rewrites(workdir, text="latin letter", strength=0.75, num_samples=2)
    assert texts == [record["text"] for record in wanted]
    assert "step" in view and "latin letter" in view


def test_a_rewriting_is_seen_and_stops_at_the_next_step(served, monkeypatch):
    """The program waits at a step until the visitor has left."""
    settings = values_of(served, "rewrite", strength=0.75, num_samples=2)
    tell, told, hold_at = Run.tell, [], 0

    def hold(run, update):
        tell(run, update)
        told.append(update)
        if isinstance(update, Step) and update.step == hold_at:
            run._cancelled.wait()

    monkeypatch.setattr(Run, "tell", hold)
    run = served.begin("rewrite", "latin letter", settings)
    list(run.updates())
    steps = [one for one in told if isinstance(one, Step)]
    assert [one.step for one in steps] == [1, 2, 3] and steps[-1].steps == 3
    assert ["".join(pieces) for pieces in steps[-1].texts] == run.result.texts
    assert any(isinstance(one, Running) for one in told)
    told.clear()
    hold_at = 1
    run = served.begin("rewrite", "latin letter", settings)
    updates = run.updates()
    assert next(one for one in updates if isinstance(one, Step)).step == 1
    updates.close()
    assert run.cancel(60) and run.result is None and not run.refusal
    assert [one.step for one in told if isinstance(one, Step)] == [1]


def test_pairs(pairs_workdir):
    served = commands.served_model(pairs_workdir)
    assert list(served.tasks) == ["answer"]
    run = served.begin("answer", "abc\n\nfe", values_of(served, "answer", cfg_scale=2.0))
    steps = [one for one in run.updates() if isinstance(one, Step)]
    wanted = commands.samples(pairs_workdir, source=["abc", "fe"], cfg_scale=2.0)
    assert run.result.texts == [text for _, text in wanted], run.refusal
    assert run.result.sources == ["abc", "fe"] and len(steps[-1].texts) == 2
    run = served.begin("answer", "a\nb\nc", values_of(served, "answer"))
    assert not list(run.updates()) and "at most 2: send fewer" in run.refusal
    with pytest.raises(UserError, match="--mode=serve shows how one sample is made"):
        commands.served_model(pairs_workdir, candidates=2)


def test_two_people_at_a_time(address, served, workdir):
    """Each gets the texts of their own seed, and never sees those of another one while waiting."""

    def ask(seed):
        return outputs_of(address, "sample", *values_of(served, "sample", seed=seed))[-1]

    wanted = [[text for _, text in commands.samples(workdir, seed=seed)] for seed in range(4)]
    assert len({tuple(texts) for texts in wanted}) == 4
    with concurrent.futures.ThreadPoolExecutor(4) as people:
        assert list(people.map(ask, range(4))) == wanted


def test_one_who_leaves_stops_at_the_next_step(served):
    settings = values_of(served, "sample", steps=MANY)
    run = served.begin("sample", None, settings)
    updates = run.updates()
    assert next(updates) == Compiling(f" for {MANY} steps")
    seen = next(one for one in updates if isinstance(one, Step))
    updates.close()
    assert run.cancel(60) and run.result is None and not run.refusal
    assert seen.step < MANY
    again = served.begin("sample", None, settings)  # compiled already
    updates = list(again.updates())
    assert updates and all(isinstance(one, Step) for one in updates)
    assert len(again.result.texts) == 3, again.refusal


@pytest.mark.parametrize("leave", ["stop", "close"])
def test_stopping_and_closing_the_page_end_the_work(leave, browser, address, served, monkeypatch):
    check, checks, runs, begin = Run.check, itertools.count(), [], served.begin

    def slow(run):
        """So steps go on while the visitor leaves, and the work never ends by itself."""
        time.sleep(0.05)
        if next(checks) > MANY // 2:
            run._cancelled.wait()
        check(run)

    monkeypatch.setattr(Run, "check", slow)
    monkeypatch.setattr(served, "begin", lambda *all: runs.append(begin(*all)) or runs[-1])
    browser.open(address)
    box = browser.wait(lambda: browser.find_all("#sample-steps input[type=number]"))[0]
    box.clear()
    box.send_keys(str(MANY))
    click(browser, "sample")
    browser.wait(lambda: f"of {MANY + 1}" in text_of(browser, "sample-status"))
    browser.wait(lambda: len(texts_of(browser, "sample")) == 3)  # they grow
    (run,) = runs
    try:
        if leave == "stop":
            click(browser, "sample", "stop")
            browser.wait(lambda: text_of(browser, "sample-status") == "Stopped.")
        else:
            browser.open("about:blank")
        browser.wait(lambda: not run.is_going_on)
    finally:
        run.cancel(0)
    assert run.result is None and not run.refusal
    if leave == "stop":
        assert len(texts_of(browser, "sample")) == 3


@pytest.mark.parametrize("session, end", [("mine", "Stopped."), (None, "Done.")])
def test_who_stops_is_told_so_last(session, end, served):
    """No step comes after "Stopped.", however fast the steps are. Programs have no session."""
    from elf_jax.pages.served import _answered, _stop

    going, shown = {}, []
    stop = _stop(SimpleNamespace(Request=None), going)
    sent = values_of(served, "sample", steps=MANY)
    for outputs in _answered(served, "sample", sent, going, session):
        shown.append(outputs)
        if "Step" in outputs[0]:
            for one in ("another", session):
                stop(SimpleNamespace(session_hash=one))
    status, texts, *_ = shown[-1]
    assert end in status and texts.count('class="text"') == 3 and not going
    assert end == "Done." or len(shown) < MANY


def test_who_comes_third_waits(served):
    turns, inside, go = Turns(2), threading.Semaphore(0), threading.Event()
    waits = []

    def work(run):
        with turns.take(run, lambda: waits.append(run)):
            inside.release()
            go.wait()
        return "done"

    runs = [Run(work) for _ in range(4)]
    readers = [threading.Thread(target=lambda run=run: list(run.updates())) for run in runs]
    for reader in readers[:2]:
        reader.start()
        inside.acquire()
    for reader in readers[2:]:
        reader.start()
    while len(waits) < 2:
        pass
    assert runs[3].cancel(30)  # who leaves while waiting takes no turn
    go.set()
    for reader in readers:
        reader.join()
    assert [run.result for run in runs] == ["done"] * 3 + [None]


def test_each_block_of_a_text_has_fewer_steps():
    def most(**keys):
        config = tiny_config(**keys)
        method, _ = build_method(config, V, mesh_of(1))
        named = {one.name: one for one in served_settings.settings_of(config, method, "sample")}
        return named["steps"].high

    assert most() == 1024
    assert most(**{"model.block_length": 2}) == 64
    assert most(**{"model.block_length": 2, "sample.steps": 100}) == 100


# (task, text, settings, what the refusal says)
BAD = [
    ("sample", None, {"steps": 10**9}, "Steps is 1,000,000,000: give a whole number from 1 to 1,0"),
    ("sample", None, {"steps": 0}, "Steps is 0: give"),
    ("sample", None, {"steps": -3}, "Steps is -3: give"),
    ("sample", None, {"steps": 2.5}, "Steps is 2.5: give a whole number"),
    ("sample", None, {"steps": "many"}, "Steps is many: give"),
    ("sample", None, {"steps": ""}, "Steps is empty: give"),
    ("sample", None, {"steps": None}, "Steps is empty: give"),
    ("sample", None, {"steps": True}, "Steps is True: give"),
    ("sample", None, {"steps": 10**400}, "Steps is 1"),
    ("sample", None, {"num_samples": 10**6}, "Number of texts is 1,000,000: give"),
    ("sample", None, {"seed": 2**32}, "Seed is 4,294,967,296: give"),
    ("sample", None, {"temperature": float("nan")}, "Temperature is nan: give a number"),
    ("sample", None, {"temperature": float("inf")}, "Temperature is inf: give a number"),
    ("sample", None, {"temperature": -1.0}, "Temperature is -1: give a number from 0 to 3."),
    ("sample", None, {"sampler": "heun"}, "Sampler is heun: choose one of ancestral, greedy_tail,"),
    ("sample", None, {"sampler": 3}, "Sampler is 3: choose"),
    ("fill", "", {}, "The template is empty: write something."),
    ("fill", " \n ", {}, "The template is empty: write something."),
    ("fill", None, {}, "The template is empty: write something."),
    ("fill", 7, {}, "The template is 7: send a text."),
    ("fill", "x" * 100_000, {}, "The template has 100,000 characters, and this page takes at most"),
    ("fill", "latin letter a", {}, "The template has no gap: write ___"),
    ("fill", "latin [[0]]", {}, "[[0]] is a gap of 0 tokens"),
    ("fill", "latin [[99999999999999]]", {}, "and the model has room for 32: shorten it."),
    ("fill", "latin \x00 ___", {}, "The template has a control character, U+0000, at place 7"),
    ("fill", "latin \x1b[31m ___", {}, "control character, U+001B"),
    ("fill", "latin \ud800 ___", {}, "control character, U+D800"),
    ("fill", "letter " * 40 + "___", {}, "and the model has room for 32: shorten it."),
    (
        "rewrite",
        "letter " * 40,
        {},
        "The text has 41 tokens and 1 of its end, and the model has ro",
    ),
    ("rewrite", "letter", {"strength": 2}, "Strength is 2: give a number from 0 to 1."),
    ("rewrite", "letter", {"strength": "0.5"}, "Strength is 0.5: give a number"),
]


def test_bad_input_is_refused_with_a_sentence(address, served, capfd):
    capfd.readouterr()
    for task, text, changes, sentence in BAD:
        sent = [] if task == "sample" else [text]
        sent += values_of(served, task, **changes)
        status, html, frame, texts = outputs_of(address, task, *sent)
        assert sentence in status and 'class="served-status refused"' in status, (changes, status)
        assert (html, frame, texts) == ("", "", None)
    *_, texts = outputs_of(address, "sample", *values_of(served, "sample"))
    assert len(texts) == 3  # the server goes on
    assert "Traceback" not in "".join(capfd.readouterr())


def test_requests_of_another_form_are_refused(address, served, capfd):
    capfd.readouterr()
    call = "/gradio_api/call/sample"
    bodies = {
        b"": "no JSON",
        b"[" * 100_000: "no JSON",
        b"[1, 2]": "needs a list",
        b'{"data": 3}': "needs a list",
        b'{"data": [{"path": "/etc/passwd"}]}': "needs a list",
        b'{"data": []}': f"has 0 values, and {len(served.tasks['sample'])} are needed",
    }
    for body, sentence in bodies.items():
        code, answer = asked(address, call, body)
        assert code == 422 and sentence in answer, (body, answer)
    assert asked(address, call, b" " * 2_000_000)[0] == 413
    join = json.dumps({"data": [], "fn_index": 10**9, "session_hash": "a"}).encode()
    assert asked(address, "/gradio_api/queue/join", join)[0] == 422
    assert asked(address, "/gradio_api/call/none", b'{"data": []}')[0] == 422
    assert asked(address, "/gradio_api/upload", b"x", "text/plain")[0] == 404
    assert asked(address, "/", None)[0] == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_students_of_a_distillation(tmp_path):
    rounds = []
    for steps in (4, 2):
        student = round_workdir(tmp_path, steps)
        student.mkdir(parents=True)
        save_random_weights(tiny_config(**{"sample.steps": steps, "seed": steps}), student)
        rounds.append(Round(steps, 8 // steps, student, 5, "0" * 16))
    teacher = {"checkpoint": "x", "kind": "workdir", "weights": "ema", "step": 5}
    write_distillation(tmp_path, {**teacher, "fingerprint": "0" * 16}, rounds)
    served = commands.served_model(tmp_path, steps=3)
    (steps,) = (one for one in served.tasks["sample"] if one.name == "steps")
    assert steps.choices == (2, 4) and steps.value == 4
    run = served.begin("sample", None, values_of(served, "sample", steps=2))
    list(run.updates())
    assert run.result.texts == [text for _, text in commands.samples(tmp_path, steps=2)]


def test_an_export(workdir, tmp_path):
    path = commands.export(workdir, output=tmp_path / "export", gamma=0.5)
    served = commands.served_model(checkpoint=path, seed=7)
    run = served.begin("sample", None, values_of(served, "sample"))
    list(run.updates())
    assert run.result.texts == [text for _, text in commands.samples(checkpoint=path, seed=7)]


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_is_explained(name):
    config = tiny_config(**settings(name))
    method, _ = build_method(config, V, mesh_of(1))
    for task in (served_settings.SAMPLE, served_settings.ANSWER):
        found = served_settings.settings_of(config, method, task)
        assert all(one.info and (one.choices or one.low < one.high) for one in found)


def page_process(*arguments):
    """`main.py --mode=serve`, started."""
    command = [sys.executable, str(ROOT / "main.py"), "--mode=serve", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.Popen(command, **pipes, env={**os.environ, "XLA_FLAGS": flags})


def test_the_command_and_ctrl_c(workdir, address):
    used = address.rpartition(":")[2]
    with page_process(f"--workdir={workdir}", f"--port={used}") as other:
        with page_process(f"--workdir={workdir}", "--port=0") as process:
            line = process.stdout.readline()
            assert line.startswith("serving names at http://127.0.0.1:"), process.stderr.read()
            assert asked(line.split()[3], "/", None)[0] == 200
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (0, "stopped\n", "")
        out, err = other.communicate(timeout=60)
        assert other.returncode == 2 and not out
        assert err.startswith(f"error: cannot listen at 127.0.0.1 port {used} (Address already in")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"port": 70_000}, "--port is 70000; it must be from 0"),
        ({"host": "no.such.host.invalid"}, "cannot listen at no.such.host.invalid port 7860"),
    ],
)
def test_a_place_where_nothing_can_be_served(arguments, message, workdir):
    with pytest.raises(UserError, match=message):
        commands.serve(workdir, **arguments)


def test_without_gradio(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Gradio: pip install -e '.\[demo\]'"):
        commands.serve(workdir)
