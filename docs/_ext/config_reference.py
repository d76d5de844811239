"""`{config-reference}`: every key of swarm.toml as a table, made of the config's own descriptions."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gossipfl.config.checking import keys
from gossipfl.config.fault import Fault
from gossipfl.config.lan import Peer
from gossipfl.config.model import LOCAL_KEYS, SECTIONS, Config
from gossipfl.config.problems import expected
from gossipfl.config.toml import toml_value

OTHERS = {
    "algorithm": "Beside these: the rule's own keys, such as `beta` and `mu` of `qg`.",
    "train": "Beside these: the optimizer's own keywords, such as `nesterov` or `betas`.",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def markdown() -> str:
    """The reference as Markdown."""
    lines, defaults = [], Config().to_dict()
    for name in Config.fields():
        lines += [f"## [{name}]", "", Config.about(name).description, ""]
        if name in ("node", "fault"):
            lines[-4] = f"## [[{name}]]"
            lines += ["| key | what it is | what it can be |", "|---|---|---|"]
            kind = Peer if name == "node" else Fault
            for field_name, found in keys(kind).items():
                key, mark = found.about.alias or field_name, " (L)" if found.about.local else ""
                cells = (_cell(found.about.description), _cell(expected(found)))
                lines.append(f"| `{key}`{mark} | {cells[0]} | {cells[1]} |")
            lines.append("")
            continue
        if name not in SECTIONS:
            lines += ["All its keys are the task's: see `gossipfl data list`.", ""]
            continue
        lines += ["| key | default | what it is | what it can be |", "|---|---|---|---|"]
        for key, found in keys(SECTIONS[name]).items():
            mark = " (L)" if f"{name}.{key}" in LOCAL_KEYS else ""
            default = toml_value(defaults[name][key])
            cells = (_cell(found.about.description), _cell(expected(found)))
            lines.append(f"| `{key}`{mark} | `{default}` | {cells[0]} | {cells[1]} |")
        lines += ["", OTHERS.get(name, ""), ""]
    return "\n".join(lines)


class ConfigReference(SphinxDirective):
    """Puts the sections where it stands."""

    def run(self) -> list[nodes.Node]:
        holder = nodes.section()
        holder.document = self.state.document
        text = StringList(markdown().splitlines(), source="gossipfl.config")
        self.state.nested_parse(text, self.content_offset, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-reference", ConfigReference)
    return {"parallel_read_safe": True}
