"""train: a recipe in a workdir, from the beginning or from the newest checkpoint."""

from collections.abc import Sequence

from llm_jax.cli.flags import Parser, add_huge_pages, add_workdir, with_huge_pages


def run(arguments: Sequence[str]) -> int:
    """Train, evaluate, and say what came of it."""
    parser = Parser("train", "Train a recipe; a workdir that holds checkpoints is gone on with.")
    parser.add_argument("--config", required=True, help="configs/RECIPE.py[:argument]; --config.a.b=value overrides")
    add_workdir(parser)
    parser.add_argument("--allow_config_change", action="store_true", help="resume although the recipe differs")
    add_huge_pages(parser)
    flags, overrides = parser.read(arguments)
    with_huge_pages(not flags.no_huge_pages and ("launch.huge_pages", "False") not in overrides)
    from llm_jax.mesh.join import joined
    from llm_jax.run import config as configs

    config = configs.resolve(configs.load_recipe(flags.config), overrides)
    with joined():
        return _train(config, flags.workdir, flags.allow_config_change)


def _train(config, path: str, allow_change: bool) -> int:
    from llm_jax.cli import STOPPED
    from llm_jax.mesh import hosts
    from llm_jax.run import build, report, resume, train
    from llm_jax.run.exchange import exported, pinned, started
    from llm_jax.run.exchange.reference import with_reference
    from llm_jax.run.exchange.rollouts import with_rollouts
    from llm_jax.run.exchange.teacher import with_teacher
    from llm_jax.run.open_run import open_run
    from llm_jax.run.signals import Stop, Stopped
    from llm_jax.store.workdir import Workdir

    workdir = Workdir(path)
    resume.check_place(path)
    parts, _ = build.check(config)
    exported.check(parts.export, config.values["model"]["name"], workdir)
    resumed = resume.check_config(workdir, config, allow_change=allow_change)
    source = path if resumed else config.values["init_from"]
    opened = open_run(source) if source else None
    if opened is not None:
        started.check_source(opened)
    with Stop() as stop:
        template = started.template(parts.data, opened, resumed=resumed)
        words, stops = (None, []) if opened is None else (opened.tokenizer, opened.stops)
        run = build.build(config, words=words, template=template, stops=stops)
        pins = pinned.kept(workdir) if resumed else {}
        for completed in (with_teacher, with_reference, with_rollouts):
            run = completed(run, pins)
        resume.start(run, workdir, resumed=resumed)
        say = print if hosts.is_first() else _not_again
        say(report.opening(run, workdir, resumed), flush=True)
        try:
            outcome = train.train(run, workdir, stop)
        except Stopped as stopped:
            say(f"{stopped}; run the same command again to go on", flush=True)
            return STOPPED
    say(report.closing(run, workdir, outcome), flush=True)
    return 0


def _not_again(*_: object, **__: object) -> None:
    """What the first of several processes says is said."""
