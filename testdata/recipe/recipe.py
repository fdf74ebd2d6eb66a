#!/usr/bin/env python3
"""
Make the dumps of testdata/ from Debian's kernel sources.

    recipe.py linux-6.12/kdump            kernel, guest, dump and the files of testdata/
    recipe.py --work DIR --stop-after dump linux-6.12/kdump
    recipe.py --list

Needs a Debian machine (see README.md for the packages), no root, no KVM. What was made once in
--work (sources, kernels) is used again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import tomllib
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent
TESTDATA = RECIPE.parent
CONFIG = tomllib.loads((RECIPE / "dumps.toml").read_text())
ENVIRONMENT = {
    **os.environ,
    "KBUILD_BUILD_VERSION": "1",
    "KBUILD_BUILD_TIMESTAMP": "2026-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "testdata",
    "KBUILD_BUILD_HOST": "drgn-pageowner",
    "LC_ALL": "C",
}
LOADER = "ld-linux-x86-64.so.2"
TEST_FILES = {
    "numbers.txt": "".join(f"{i}\n" for i in range(40000)),
    "more.txt": "".join(f"{i}\n" for i in range(1200000)),
}


def run(*command: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    print("+", " ".join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run(
        [str(word) for word in command],
        check=True,
        text=True,
        env=kwargs.pop("env", ENVIRONMENT),
        **kwargs,
    )


# --- kernel -------------------------------------------------------------------------------------


def debian_mirrors() -> list[str]:
    """The deb lines for this machine's own mirrors: main archive and security."""
    policy = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(SIGNED_BY)", "Created-By: Packages"],
        check=True, text=True, capture_output=True,
    ).stdout  # fmt: skip
    return sorted({line.split()[0] for line in policy.splitlines() if "/debian" in line})


def download(work: Path, suites: list[str], *packages: str) -> list[Path]:
    """Download NAME=VERSION packages of Debian suites, without touching apt's own configuration."""
    state = work / "apt" / suites[0]
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    lines = []
    for mirror in debian_mirrors():
        for suite in suites:
            if suite.endswith("-security") == ("security" in mirror):
                lines.append(f"deb {mirror} {suite} main\n")
    (state / "sources.list").write_text("".join(lines))
    apt = [
        "apt-get",
        f"-oDir::Etc::sourcelist={state / 'sources.list'}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::Lists={state / 'lists'}",
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
        "-oAPT::Sandbox::User=",
    ]
    run(*apt, "update")
    found = []
    for package in packages:
        name, _, version = package.partition("=")
        try:
            run(*apt, "download", package, cwd=state)
        except subprocess.CalledProcessError:
            if not version:
                raise
            print(
                f"{name} {version} is gone: taking the newest one of {suites[0]}", file=sys.stderr
            )
            run(*apt, "download", name, cwd=state)
        found.append(max(state.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_ctime))
    return found


def fetch_source(version: str, work: Path) -> Path:
    kernel = CONFIG["kernels"][version]
    name = kernel["source"].partition("=")[0]
    tree = work / "src" / name
    if not tree.exists():
        [deb] = download(work, kernel["suites"], kernel["source"])
        unpacked = work / "apt" / name
        run("dpkg-deb", "-x", deb, unpacked)
        run("tar", "-C", unpacked, "-xf", next(unpacked.rglob("linux-source-*.tar.xz")))
        tree.parent.mkdir(exist_ok=True)
        (unpacked / name).rename(tree)
        shutil.rmtree(unpacked)
    return tree


def fetch_makedumpfile(version: str, work: Path) -> Path:
    """A directory with a makedumpfile that knows this kernel, its libraries and ld.so."""
    tail = CONFIG["kernels"][version].get("tail", "page.compound_head")
    tools = work / f"makedumpfile-{tail}"
    if not tools.exists():
        unpacked = work / "apt" / "makedumpfile"
        wanted = CONFIG["makedumpfile"]
        for deb in download(work, [wanted["suite"]], *wanted["packages"]):
            run("dpkg-deb", "-x", deb, unpacked)
        libraries = unpacked / "usr/lib/x86_64-linux-gnu"
        collect(tools, unpacked / "usr/bin/makedumpfile", libraries / LOADER, libraries)
        program = tools / "makedumpfile"
        program.write_bytes(program.read_bytes().replace(b"page.compound_head", tail.encode()))
        shutil.rmtree(unpacked)
    return tools


def collect(out: Path, program: Path, loader: Path, libraries: Path) -> None:
    """Copy a program, all the libraries it needs and its loader into one flat directory."""
    listing = subprocess.run(
        [loader, "--library-path", libraries, "--list", program],
        check=True, text=True, capture_output=True,
    ).stdout  # fmt: skip
    out.mkdir(parents=True)
    for path in [program, loader, *map(Path, re.findall(r"=> (/\S+/(?!ld-)\S+) \(", listing))]:
        shutil.copy(path, out / path.name)


def kernel_make(version: str, work: Path) -> list[str]:
    source, build = fetch_source(version, work), work / "build" / version
    build.mkdir(parents=True, exist_ok=True)
    ENVIRONMENT["KERNEL_SOURCE"] = str(source)
    prefix = f"-fdebug-prefix-map={source}=linux -fdebug-prefix-map={build}=build"
    prefix += f" -fmacro-prefix-map={source}/= "
    return [
        "make", "-C", str(source), f"O={build}", f"-j{os.cpu_count()}", "-s",
        f"CC={RECIPE / 'cc'}", f"KCFLAGS={prefix}", f"KAFLAGS={prefix}",
    ]  # fmt: skip


def build_kernel(version: str, work: Path) -> Path:
    """Build one kernel: build/VERSION/{vmlinux,arch/x86/boot/bzImage}, modules/*.ko."""
    make = kernel_make(version, work)
    build = work / "build" / version
    if not (build / "built").exists():
        fragment = (RECIPE / "kernel.config").read_text()
        for symbol in CONFIG["kernels"][version].get("without", ()):
            fragment = re.sub(rf"^CONFIG_{symbol}=.*\n", "", fragment, flags=re.M)
        (build / "fragment").write_text(fragment)
        env = {**ENVIRONMENT, "KCONFIG_ALLCONFIG": str(build / "fragment")}
        run(*make, "allnoconfig", env=env, stdout=subprocess.DEVNULL)
        run(*make, "bzImage", "modules")
        (build / "built").touch()
    modules = build / "po-modules"
    if not (modules / "built").exists():
        shutil.rmtree(modules, ignore_errors=True)
        shutil.copytree(RECIPE / "modules", modules)
        flags = [f"{word} -fdebug-prefix-map={modules}=modules" if word.startswith(("KCF", "KAF"))
                 else word for word in make]  # fmt: skip
        run(*flags, f"M={modules}", "modules")
        (modules / "built").touch()
    return build


# --- guest --------------------------------------------------------------------------------------


def make_initramfs(version: str, work: Path, build: Path, out: Path, kexec: bool) -> None:
    root = out.parent / "root"
    for directory in ("bin", "modules"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for source in (RECIPE / "guest").glob("*.c"):
        run("gcc", "-O1", "-Wall", "-static", "-s", "-o", root / "bin" / source.stem, source)
    shutil.copy(RECIPE / "guest/init", root / "init")
    (root / "init").chmod(0o755)
    shutil.copytree(RECIPE / "guest/scenario", root / "scenario")
    for module in (build / "po-modules").glob("*.ko"):
        run("strip", "-g", "-o", root / "modules" / module.name, module)
    if kexec:
        libraries = Path("/lib/x86_64-linux-gnu")
        collect(root / "kexec", Path("/sbin/kexec"), libraries / LOADER, libraries)
        shutil.copytree(fetch_makedumpfile(version, work), root / "makedumpfile")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input="\n".join(names).encode(), cwd=root, check=True, capture_output=True,
    ).stdout  # fmt: skip
    out.write_bytes(gzip.compress(archive, 6, mtime=0))


def make_disk(build: Path, guest: Path) -> Path:
    root = guest / "disk"
    (root / "data").mkdir(parents=True, exist_ok=True)
    for name, text in TEST_FILES.items():
        (root / "data" / name).write_text(text)
    shutil.copy(build / "arch/x86/boot/bzImage", root / "bzImage")
    shutil.copy(guest / "initramfs.gz", root / "initramfs.gz")
    image = guest / "vda"
    image.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext2", "-b", "4096", "-d", root, image, "64M")
    return image


class Guest:
    """A QEMU guest: its console, and its monitor."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.monitor_path = directory / "qmp"
        self.monitor_path.unlink(missing_ok=True)
        self.log = (directory / "console.log").open("w")
        self.process = subprocess.Popen(
            [*command, "-qmp", f"unix:{self.monitor_path},server=on,wait=off"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    def wait_for(self, text: str, seconds: float) -> bool:
        """Whether the guest said so before it ended."""
        assert self.process.stdout
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                self.log.write(line)
                self.log.flush()
                if text in line:
                    return True
            return False
        finally:
            timer.cancel()

    def monitor(self, *commands: tuple[str, dict[str, Any]]) -> None:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self.monitor_path))
            stream = channel.makefile("rw")
            stream.readline()
            for name, arguments in (("qmp_capabilities", {}), *commands):
                stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    if "error" in answer:
                        sys.exit(f"QEMU refused {name}: {answer['error']['desc']}")

    def answer(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self, seconds: float) -> None:
        assert self.process.stdout
        try:
            self.log.write(self.process.communicate(timeout=seconds)[0] or "")
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def take_dump(version: str, work: Path, guest: Path, mode: str, memory: int, append: str,
              scenario: str, buffer: int) -> tuple[Path, Path]:  # fmt: skip
    """Boot the guest and take its dump; return the dump and the archive of the truth."""
    build = work / "build" / version
    shutil.rmtree(guest, ignore_errors=True)
    guest.mkdir(parents=True)
    make_initramfs(version, work, build, guest / "initramfs.gz", kexec=mode == "kdump")
    make_disk(build, guest)
    # One disk for the truth, one for the dump.
    for disk, size in (("vdb", (buffer + 2) << 20), ("vdc", 1 << 31)):
        with (guest / disk).open("wb") as file:
            file.truncate(size)
    options = (
        f"console=ttyS0 panic=-1 {append} po.dump={mode} po.buffer={buffer} po.work={scenario}"
    )
    if mode == "kdump":
        options += " crashkernel=96M"
    else:
        # Without ACPI the kernel must be told where QEMU's fw_cfg is, for its vmcoreinfo.
        options += " qemu_fw_cfg.ioport=12@0x510:0:1:4"
    command = [
        "qemu-system-x86_64", "-cpu", "max", "-smp", "2,sockets=2", "-m", f"{memory}M",
        "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-device", "vmcoreinfo",
        "-kernel", str(build / "arch/x86/boot/bzImage"), "-initrd", str(guest / "initramfs.gz"),
        "-append", options,
    ]  # fmt: skip
    for disk in ("vda", "vdb", "vdc"):
        command += ["-drive", f"file={guest / disk},format=raw,if=virtio,cache=unsafe"]
    core = guest / "vmcore"
    # Where KASLR puts the kernel in the middle, there is no room for the capture kernel: again.
    for _ in range(5):
        vm = Guest(command, guest)
        if mode == "kdump":
            if vm.wait_for("makedumpfile: 0", 300):
                vm.end(30)
                with (guest / "vdc").open("rb") as flattened:
                    run(*makedumpfile(version, work), "-R", core, stdin=flattened)
                return core, guest / "vdb"
        elif vm.wait_for("READY", 1800):
            vm.monitor(
                ("stop", {}),
                ("dump-guest-memory", {"paging": False, "protocol": f"file:{core}"}),
                ("cont", {}),
            )
            vm.answer("\n")
            vm.end(120)
            return core, guest / "vdb"
        vm.end(1)
        if "no capture kernel" not in (guest / "console.log").read_text():
            break
    sys.exit(f"the guest did not get to its dump: see {guest / 'console.log'}")


def makedumpfile(version: str, work: Path) -> list[str]:
    tools = fetch_makedumpfile(version, work)
    return [f"{tools}/{LOADER}", "--library-path", str(tools), f"{tools}/makedumpfile"]


# --- what is committed --------------------------------------------------------------------------


def compress(path: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 27}]
    out.write_bytes(lzma.compress(path.read_bytes(), filters=filters))
    print(f"{out.relative_to(TESTDATA)}: {out.stat().st_size:,} bytes", file=sys.stderr)


def pack_vmlinux(build: Path, out: Path) -> None:
    """
    The debugging symbols alone: what the dump has in its memory is not kept twice.

    dwz first, which wants all DWARF sections; then away with those that no test reads.
    """
    whole, slim = build / "vmlinux.dwz", build / "vmlinux.slim"
    run("dwz", "-l", "none", "-L", "none", "-o", whole, build / "vmlinux")
    run(
        "objcopy", "--only-keep-debug", "--remove-section=.debug_loclists",
        "--remove-section=.debug_loc", "--remove-section=.debug_frame",
        "--remove-section=.rela*", whole, slim,
    )  # fmt: skip
    compress(slim, out)


def pack_modules(build: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz", preset=9) as tar:
        for module in sorted((build / "po-modules").glob("*.ko")):
            info = tar.gettarinfo(module, module.name)
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = "root"
            with module.open("rb") as file:
                tar.addfile(info, file)


def pack_dump(version: str, work: Path, core: Path, truth: Path, out: Path) -> None:
    """
    The dump's pages uncompressed, then xz over all: a quarter of what LZO pages take.

    makedumpfile writes the same kdump file again, without compressing its pages.
    """
    plain = core.with_suffix(".plain")
    plain.unlink(missing_ok=True)
    run(*makedumpfile(version, work), "-d", "31", core, plain)
    compress(plain, out / "vmcore.xz")
    with tarfile.open(truth) as tar:
        tar.getmembers()
        end = tar.offset
    archive = truth.with_suffix(".tar")
    archive.write_bytes(truth.read_bytes()[: end + 1024])
    compress(archive, out / "truth.tar.xz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dump", nargs="*", help="dumps of dumps.toml")
    parser.add_argument("--work", type=Path, default=Path("testdata-work"), help="where to build")
    parser.add_argument("--list", action="store_true", help="name the dumps")
    parser.add_argument("--stop-after", choices=("kernel", "dump"), help="pack nothing")
    parser.add_argument("--qemu", action="store_true", help="an unfiltered dump by QEMU instead")
    parser.add_argument("--memory", type=int, help="guest memory in MB instead of the recipe's")
    parser.add_argument("--append", default="", help="more for the kernel command line")
    parser.add_argument("--scenario", help="workload instead of the recipe's")
    parser.add_argument(
        "--buffer", type=int, default=32, help="room for the truth in the guest, MB"
    )
    args = parser.parse_args()
    if args.list:
        print("\n".join(CONFIG["dumps"]))
    work = args.work.resolve()
    for name in args.dump:
        dump = CONFIG["dumps"][name]
        build = build_kernel(dump["kernel"], work)
        if args.stop_after == "kernel":
            continue
        mode = "qemu" if args.qemu else "kdump"
        guest = work / "guest" / (name + ("-qemu" if args.qemu else ""))
        core, truth = take_dump(
            dump["kernel"], work, guest, mode, args.memory or dump["memory"],
            f"{dump['append']} {args.append}", args.scenario or dump["scenario"], args.buffer,
        )  # fmt: skip
        if args.stop_after == "dump":
            print(core, truth)
            continue
        directory = TESTDATA / f"linux-{dump['kernel']}"
        pack_vmlinux(build, directory / "vmlinux.xz")
        pack_modules(build, directory / "modules.tar.xz")
        pack_dump(dump["kernel"], work, core, truth, TESTDATA / name)


if __name__ == "__main__":
    main()
