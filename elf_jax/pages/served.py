"""The served page: a tab for each task, with the settings that matter. It needs Gradio."""

import inspect
import pathlib

from elf_jax.pages import served_views as views
from elf_jax.pages.served_settings import ANSWER, FILL, REWRITE, SAMPLE

HERE = pathlib.Path(__file__).parent
STYLE = "served.css"
VISITORS = 32  # whose work is watched at the same time; more of them wait in a queue
WAITING = 64  # length of the queue; later visitors are asked to come back

# The view of finished texts tells how high it is, see `watch.py`. Its controls stay in the window.
FIT = """
addEventListener("message", ({data, source}) => {
  if (!(data && data.watchHeight > 0)) return;
  for (const frame of document.querySelectorAll("iframe.served-frame"))
    if (frame.contentWindow === source)
      frame.style.height = Math.min(data.watchHeight + 2, 0.9 * innerHeight) + "px";
});
"""

# {task: (its tab, what it is for, label of its text, a hint in the empty text)}
TABS = {
    SAMPLE: ("Sample", "The model writes new texts.", "", ""),
    ANSWER: (
        "Translate or summarise",
        "The model writes a target for each line: whatever it was trained on, such as a "
        "translation or a summary.",
        "Sources",
        "One source on each line",
    ),
    FILL: (
        "Fill gaps",
        "The model fills the gaps of a text. `___` is a gap of some words, and `[[3]]` a gap of "
        "exactly 3 tokens. All other text stays as it is.",
        "Template",
        "A text with a gap, such as: once upon a ___",
    ),
    REWRITE: (
        "Rewrite",
        "A text gets noise, and the model takes the noise away. The strength says how much noise.",
        "Text",
        "A text to change",
    ),
}


def served_page(served):
    """The page of a `ServedModel`, a gradio.Blocks."""
    import gradio as gr

    blocks = gr.Blocks(title=f"{served.name} - ELF-JAX", analytics_enabled=False)
    with blocks:
        gr.HTML(views.heading(served), elem_classes="served-heading")
        with gr.Tabs():
            for task in served.tasks:
                with gr.Tab(TABS[task][0], id=task):
                    _tab(gr, served, task)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=VISITORS, api_open=False)


def looks():
    """The arguments of Gradio for the looks of the page. Its fonts are those of the visitor."""
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gr.themes.Default(primary_hue="blue", **fonts),
        "css": (HERE / STYLE).read_text(encoding="utf-8"),
        "head": f"<script>{FIT}</script>",
        "footer_links": [],
    }


def _tab(gr, served, task):
    _, purpose, label, hint = TABS[task]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(purpose)
            text = [gr.Textbox(label=label, placeholder=hint, lines=3)] if label else []
            controls = _controls(gr, served.tasks[task], task)
            with gr.Row():
                start = gr.Button("Write", variant="primary", elem_id=f"{task}-start")
                stop = gr.Button("Stop", elem_id=f"{task}-stop")
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(views.status("Ready."), elem_id=f"{task}-status")
            texts = gr.HTML(elem_id=f"{task}-texts")
            frame = gr.HTML(elem_id=f"{task}-frame")
            data = gr.JSON(visible=False)
    outputs = [status, texts, frame, data]
    going = {}  # {session of a visitor: the `Run` that the visitor waits for}
    gr.on(
        [start.click, *(box.submit for box in text)],
        _function(gr, served, task, going),
        [*text, *controls],
        outputs,
        api_name=task,
        preprocess=False,  # numbers and texts are checked here, whatever they are
        show_progress="hidden",
        concurrency_id="model",
        concurrency_limit=VISITORS,
    )
    # It writes nothing: the run that is stopped has the last word. What two requests write arrives
    # in any order, and a last step after "Stopped." would look as if the work went on for ever.
    stop.click(_stop(gr, going), api_visibility="private", queue=False, show_progress="hidden")


def _controls(gr, settings, task):
    """Components for the settings of a task, in their order."""
    found = [_control(gr, one, task) for one in settings if one.is_basic]
    others = [one for one in settings if not one.is_basic]
    if others:
        with gr.Accordion("More settings", open=False):
            found += [_control(gr, one, task) for one in others]
    names = [one.name for one in settings if one.is_basic] + [one.name for one in others]
    return [found[names.index(one.name)] for one in settings]


def _control(gr, setting, task):
    texts = {"label": setting.label, "info": setting.info, "elem_id": f"{task}-{setting.name}"}
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=setting.value, **texts)
    if setting.high - setting.low > MOST_ON_A_SLIDER * setting.step:
        return gr.Number(setting.value, precision=0, step=setting.step, **texts)
    bounds = {"minimum": setting.low, "maximum": setting.high, "step": setting.step}
    return gr.Slider(value=setting.value, **bounds, **texts)


MOST_ON_A_SLIDER = 2000  # steps: a finger cannot set more


def _function(gr, served, task, going):
    """The function of a task, whose arguments have the names of its settings, for programs."""
    names = ([] if task == SAMPLE else ["text"]) + [one.name for one in served.tasks[task]]

    def function(*sent):
        *sent, request = sent
        yield from _answered(served, task, sent, going, request.session_hash)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(one, kind) for one in [*names, "request"]]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {"request": gr.Request}  # so Gradio gives it, and not the visitor
    function.__doc__ = TABS[task][1]
    return function


def _stop(gr, going):
    """The function of the button that stops a visitor's work. going: see `_answered`."""

    def function(request: gr.Request):
        session = request.session_hash  # programs may have none
        run = going.get(session) if session else None
        if run:
            run.cancel(0)

    return function


def _answered(served, task, sent, going, session):
    """Yields what the outputs of a tab show, while a visitor's work is done and at its end.

    Args:
      sent: the text, if the task has one, and the settings. Anything may be there.
      going: {session: `Run`}, which has the run while it goes on. session: that of the visitor.
    """
    text, values = (None, sent) if task == SAMPLE else (sent[0], sent[1:])
    run, shown = served.begin(task, text, values, _shown), ""
    going[session] = run
    try:
        for update in run.updates():
            shown = views.cards_of(update) or shown
            yield views.status_of(update), shown, "", None
    finally:
        if going.get(session) is run:
            del going[session]
    if run.refusal:
        yield views.refusal(run.refusal), "", "", None
    else:
        yield run.result or (views.status("Stopped."), shown, "", None)


def _shown(answer):
    """What the outputs of a tab show at the end."""
    texts = views.cards(answer.texts, answer.sources)
    return views.finished(answer.note), texts, views.trajectory(answer.watched), answer.texts
