"""Install a version of torch for tests on the CPU, whatever build the registry serves.

``python install.py torch==VERSION`` (or ``torch``: the newest), by the python of an environment made for
it. Where the build is linked to CUDA libraries these are not fetched (3 GB): empty stand-ins let it
load, and it finds no device. That takes a C compiler and binutils.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

GPU = re.compile(r"Requires-Dist: (nvidia|cuda|triton|pytorch-triton)")
PIP = (sys.executable, "-m", "pip", "install", "--quiet")
NO_DEVICE = 100  # what cudaGetDeviceCount answers where there is none


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(libraries):
    """Names that no library among them defines, {name: version or ""}."""
    wanted, given = {}, set()
    for path in libraries:
        for line in output("nm", "-D", str(path)).splitlines():
            kind, name = line.split()[-2:]
            base, _, version = name.partition("@")
            if kind in "Uw":
                wanted[base] = version.lstrip("@")
            else:
                given.add(base)
    ours = re.compile(r"_*(cu|nv|nccl)")
    return {
        name: version for name, version in wanted.items() if name not in given and ours.match(name)
    }


def stand_in(names, path):
    """A library that has all ``names`` as functions which do nothing."""
    value = {"cudaGetDeviceCount": NO_DEVICE}
    source = [f"void *{name}(void) {{ return (void *){value.get(name, 0)}; }}" for name in names]
    versions = {}
    for name, version in names.items():
        versions.setdefault(version, []).append(name)
    script = [f"{v} {{ global: {'; '.join(ns)}; }};" for v, ns in versions.items() if v]
    with tempfile.TemporaryDirectory() as folder:
        code, table = Path(folder) / "absent.c", Path(folder) / "versions"
        code.write_text("\n".join(source))
        table.write_text("\n".join(script))
        options = [f"-Wl,--version-script={table}"] if script else []
        output("cc", "-shared", "-fPIC", "-w", *options, "-o", str(path), str(code))


def fill_in():
    """Put a stand-in beside torch's libraries for each that is missing; their names."""
    folder = Path(metadata.distribution("torch").locate_file("torch")) / "lib"
    libraries = sorted(folder.glob("lib*.so*"))
    needed = {
        name
        for path in libraries
        for name in re.findall(
            r"\(NEEDED\).*\[(lib(?:cu|nv|nccl).+)\]", output("readelf", "-d", str(path))
        )
    }
    missing = sorted(name for name in needed if not (folder / name).exists())
    names = symbols(libraries) if missing else {}
    for name in missing:
        stand_in(names, folder / name)
    return missing


def forget_gpu():
    """Later calls of pip shall not fetch what the stand-ins stand for."""
    path = Path(metadata.distribution("torch").locate_file("")) / metadata_folder() / "METADATA"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not GPU.match(line)))


def metadata_folder():
    (folder,) = {p.parts[0] for p in metadata.files("torch") or () if p.name == "METADATA"}
    return folder


def main(requirement):
    subprocess.run([*PIP, "--no-deps", requirement], check=True)
    missing = fill_in()
    if missing:
        forget_gpu()
    named = f", with stand-ins for {', '.join(missing)}" if missing else ""
    print(f"torch {metadata.version('torch')}{named}")


if __name__ == "__main__":
    main(*sys.argv[1:])
