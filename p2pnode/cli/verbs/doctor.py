"""``p2pnode doctor``: runs the checks of ``checks`` on this machine and prints each problem with its fix."""

from __future__ import annotations

import platform
from dataclasses import asdict

import click

from p2pnode import __version__
from p2pnode.cli import checks
from p2pnode.cli.client import ApiError
from p2pnode.cli.exits import DEGRADED, FAILED, NO_DAEMON, OK, Exit
from p2pnode.cli.options import Shared, json_flag, shared
from p2pnode.cli.render import print_json, safe, text
from p2pnode.config import ConfigError, load_config
from p2pnode.json_types import JsonObject

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}

EPILOG = """\b
Examples:
  p2pnode doctor
  p2pnode doctor --report        redacted, safe to paste in public

Exit code 0 when all is well, 4 with warnings only, 1 when something failed.
"""


@click.command(name="doctor", epilog=EPILOG)
@click.option("--report", is_flag=True, help="Plain text without names, addresses, paths and ids.")
@json_flag
@shared
def command(options: Shared, report: bool, as_json: bool) -> int:
    """Check driver, ports, reachability, clock, bootstrap peers, engine, file modes."""
    paths = options.paths
    findings: list[checks.Finding] = []
    redact = checks.redaction(paths) if report else str
    console = options.out
    if report:
        click.echo(
            f"p2pnode {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        )
    try:
        config = load_config(paths.config)
    except ConfigError as error:
        raise Exit(FAILED, redact(f"config: {error}")) from None
    for finding in checks.all_checks(config, paths, _daemon(options)):
        findings.append(finding)
        what, fix = redact(finding.what), redact(finding.fix)
        if as_json:
            continue
        if report:
            click.echo(f"{finding.state:<5}{finding.name:<11}{what}" + (f"\n     -> {fix}" if fix else ""))
            continue
        console.print(text(_MARKS[finding.state], f" {finding.name:<11}{safe(what, 300)}"), soft_wrap=True)
        if fix:
            console.print(text("     ", (f"→ {safe(fix, 300)}", "bold")), soft_wrap=True)
    if as_json:
        print_json({"findings": [{k: redact(v) for k, v in asdict(found).items()} for found in findings]})
    states = {finding.state for finding in findings}
    return FAILED if "fail" in states else DEGRADED if "warn" in states else OK


def _daemon(options: Shared) -> JsonObject | None:
    try:
        status: JsonObject = options.api().get("/v1/p2p/status")
    except Exit as error:
        if error.exit_code != NO_DAEMON:
            raise
        return None
    except ApiError as error:
        return {"problems": [{"what": error.message, "fix": "use the home of the daemon: --home"}]}
    return status
