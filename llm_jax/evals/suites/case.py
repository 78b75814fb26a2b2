"""What a suite is given: a model with its parameters, and what is held out, as batches and as texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Decodes, Model, Params
from llm_jax.data.documents import Document
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.records import Record
from llm_jax.data.loader import Loader
from llm_jax.evals.suites.texts import Reading
from llm_jax.mesh import hosts


class Examples(NamedTuple):
    """What a run that learnt classes makes of records, and those that are held out."""

    form: Labelled
    records: Sequence[Record]

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of their numbers."""
        return self.form.names


class Checked(NamedTuple):
    """Held-out questions, (text, record) -> its reward, and how texts end.

    tokens: the most of a text, None: those of an answer. stops: the ids that end one.
    """

    records: Sequence[Record]
    reward: Callable[[str, Record], float]
    tokens: int | None
    stops: Sequence[int]


@dataclass(frozen=True)
class Case:
    """A model before its suites.

    Attributes:
        model, params: as they compute, without an adapter.
        reading: how texts become ids.
        loader: opens the held-out rows, `rows` of them a batch; None where nothing is held out.
        documents: opens the held-out texts.
        components: names of the members of a mixture, by the `domain` of a row.
        seq_len: tokens of a piece of text.
        limit: at most so many batches, or pieces of text for so many.
        seed: of what is drawn.
        examples: opens the held-out records; None where the run learnt no classes of texts.
        checked: opens the held-out questions; None where no program checks the answers.
    """

    model: Model
    params: Params
    reading: Reading
    loader: Callable[[], Loader | None]
    rows: int
    documents: Callable[[], Iterator[Document]]
    components: Sequence[str]
    seq_len: int
    limit: int | None = None
    seed: int = 0
    examples: Callable[[], Examples | None] = lambda: None
    checked: Callable[[], Checked | None] = lambda: None

    def batches(self) -> Iterator[Batch]:
        """Yield the held-out rows on the devices, every row once; padding has weight 0.

        Raises:
            UserError: nothing is held out.
        """
        loader = self.loader()
        if loader is None:
            raise UserError("this suite is about held-out text, and these data hold nothing out; name other text")
        for batch in loader.once(self.rows, *hosts.share(self.rows), self.limit):
            yield hosts.to_devices(batch, self.rows)

    def pieces(self) -> list[tuple[str, np.ndarray]]:
        """Return (name of the document, ids) of pieces of at most `seq_len` tokens, as many of each document as fit.

        Raises:
            UserError: there is no held-out text.
        """
        found = [(d.name, self.reading.tokenizer.encode(d.text)) for d in self.documents()]
        width = min(self.seq_len, self.reading.window)
        each = None if self.limit is None else max(1, self.limit * self.rows // max(1, len(found)))
        cut = [(name, ids[at : at + width]) for name, ids in found for at in range(0, len(ids), width)[:each]]
        if not cut:
            raise UserError("this suite is about held-out text, and these data hold nothing out; name other text")
        return cut

    def reader(self) -> Model:
        """Return the model, if it reads from left to right.

        Raises:
            UserError: it does not.
        """
        if not isinstance(self.model, Decodes):
            if hasattr(self.model, "labels"):
                raise UserError("this suite is of models that go on with a text, and this one tells labels")
            name = type(self.model).__name__.lower()
            raise UserError(f"model.name={name!r} does not read from left to right, as this suite needs it to")
        return self.model
