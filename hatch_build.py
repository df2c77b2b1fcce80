"""The package's build compiles the C runtime. Where no compiler is, the package installs without it and is slower."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RUNTIME = "src/resprout/deploy/runtime"


class Native(BuildHookInterface):
    """Puts the shared library into the wheel, which is then for this platform only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; called before the wheel (or an editable installation) is made."""
        if self.target_name != "wheel":
            return
        path = Path(self.root) / RUNTIME / "build.py"
        spec = importlib.util.spec_from_file_location("resprout_native_build", path)
        assert spec
        assert spec.loader
        build = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = build
        spec.loader.exec_module(build)
        try:
            made = build.install()
        except (build.CompilerError, OSError) as error:
            self.app.display_warning(f"resprout is built without its C runtime, networks run slower: {error}")
            return
        for file in (made, made.with_suffix(".key")):
            build_data["force_include"][str(file)] = f"resprout/deploy/runtime/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{build.platform_tag()}"
