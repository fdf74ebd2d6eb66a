#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make the dumps of testdata/ from Debian's kernel sources.

    recipe.py linux-6.12/kdump            kernel, guest, dump and the files of testdata/
    recipe.py --work DIR --stop-after dump linux-6.12/kdump
    recipe.py --list

Needs a Debian machine (see README.md for the packages), no root, no KVM. Existing results in --work
(sources, kernels) are used again.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import lzma
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import tomllib
from pathlib import Path
from typing import Any

from packages import ENVIRONMENT, collect, download, run, unpack_packages

RECIPE = Path(__file__).resolve().parent
TESTDATA = RECIPE.parent
CONFIG = tomllib.loads((RECIPE / "dumps.toml").read_text())
TEST_FILES = {
    "numbers.txt": "".join(f"{i}\n" for i in range(40000)),
    "more.txt": "".join(f"{i}\n" for i in range(1200000)),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Facts that differ between architectures: a table of dumps.toml."""

    config: str
    """File with the kernel's configuration in addition to kernel.config."""
    make: str
    """``ARCH`` of the kernel's Makefile."""
    debian: str
    """Debian's name of the architecture."""
    gnu: str
    """Prefix of the names of compiler and binutils, without the last dash."""
    image: str
    """Path of the bootable kernel in the build directory."""
    loader: str
    """File name of the dynamic linker."""
    console: str
    crashkernel: str
    """Memory of the capture kernel: the value of crashkernel=."""
    qemu: list[str]
    """QEMU command, without the options of all guests."""
    xen: bool = True
    """Whether Debian's kexec needs the libraries of Xen."""
    fw_cfg: str = ""
    """Kernel parameter with the address of QEMU's fw_cfg, for its vmcoreinfo."""

    @property
    def cross(self) -> str:
        return f"{self.gnu}-"


def architecture(version: str) -> Architecture:
    return Architecture(**CONFIG["architectures"][CONFIG["kernels"][version].get("arch", "x86-64")])


# --- kernel -------------------------------------------------------------------------------------


def fetch_source(version: str, work: Path) -> Path:
    kernel = CONFIG["kernels"][version]
    name = kernel["source"].partition("=")[0]
    # Resolve links as make does, because recipe/cc compares the path of the sources.
    tree = (work / "src" / name).resolve()
    if not tree.exists():
        # Source packages are the same for all architectures.
        [deb] = download(work, kernel["suites"], "amd64", kernel["source"])
        unpacked = work / "apt" / name
        run("dpkg-deb", "-x", deb, unpacked)
        run("tar", "-C", unpacked, "-xf", next(unpacked.rglob("linux-source-*.tar.xz")))
        tree.parent.mkdir(exist_ok=True)
        (unpacked / name).rename(tree)
        shutil.rmtree(unpacked)
    return tree


def fetch_makedumpfile(version: str, work: Path) -> Path:
    """Return a directory with a makedumpfile that supports this kernel, its libraries and ld.so."""
    arch = architecture(version)
    tail = CONFIG["kernels"][version].get("tail", "page.compound_head")
    tools = work / f"makedumpfile-{arch.debian}-{tail}"
    if not tools.exists():
        unpacked = work / "apt" / f"makedumpfile-{arch.debian}"
        unpack_packages(unpacked, work, CONFIG["makedumpfile"], arch.debian)
        collect(tools, unpacked, unpacked / "usr/bin/makedumpfile", arch.loader)
        program = tools / "makedumpfile"
        program.write_bytes(program.read_bytes().replace(b"page.compound_head", tail.encode()))
        shutil.rmtree(unpacked)
    return tools


def fetch_tools(version: str, work: Path) -> Path:
    """Return a directory with busybox, and with kexec/, which has kexec, its libraries and
    ld.so."""
    arch = architecture(version)
    tools = work / f"tools-{arch.debian}"
    if not tools.exists():
        unpacked = work / "apt" / f"tools-{arch.debian}"
        wanted = CONFIG["tools"]
        packages = wanted["packages"] + (wanted["xen"] if arch.xen else [])
        unpack_packages(unpacked, work, {**wanted, "packages": packages}, arch.debian)
        collect(tools / "kexec", unpacked, next(unpacked.rglob("sbin/kexec")), arch.loader)
        shutil.copy(next(unpacked.rglob("bin/busybox")), tools / "busybox")
        shutil.rmtree(unpacked)
    return tools


def kernel_make(version: str, work: Path) -> list[str]:
    source, build = fetch_source(version, work), work / "build" / version
    arch = architecture(version)
    build.mkdir(parents=True, exist_ok=True)
    ENVIRONMENT["KERNEL_SOURCE"] = str(source)
    ENVIRONMENT["RECIPE_DWARF"] = CONFIG["kernels"][version].get("dwarf", "lean")
    prefix = f"-fdebug-prefix-map={source}=linux -fdebug-prefix-map={build}=build"
    prefix += f" -fmacro-prefix-map={source}/= "
    return [
        "make", "-C", str(source), f"O={build}", f"-j{os.cpu_count()}", "-s",
        f"ARCH={arch.make}", f"CROSS_COMPILE={arch.cross}",
        f"CC={RECIPE / 'cc'}", f"KCFLAGS={prefix}", f"KAFLAGS={prefix}",
    ]  # fmt: skip


def fragment(version: str) -> str:
    """Return a kernel's configuration: the common one, that of the architecture, and the kernel's
    own."""
    kernel = CONFIG["kernels"][version]
    parts = ["kernel.config", architecture(version).config, *kernel.get("config", ())]
    text = "".join((RECIPE / part).read_text() for part in parts)
    for symbol in kernel.get("without", ()):
        text = re.sub(rf"^CONFIG_{symbol}=.*\n", "", text, flags=re.M)
    for symbol in kernel.get("with", ()):
        text += f"CONFIG_{symbol if '=' in symbol else symbol + '=y'}\n"
    return text


def build_kernel(version: str, work: Path) -> Path:
    """Build one kernel: build/VERSION/{vmlinux,the image}, po-modules/*.ko."""
    make = kernel_make(version, work)
    build = work / "build" / version
    if not (build / "built").exists():
        (build / "fragment").write_text(fragment(version))
        env = {**ENVIRONMENT, "KCONFIG_ALLCONFIG": str(build / "fragment")}
        run(*make, "allnoconfig", env=env, stdout=subprocess.DEVNULL)
        run(*make, Path(architecture(version).image).name, "modules")
        (build / "built").touch()
    modules = build / "po-modules"
    if not (modules / "built").exists():
        shutil.rmtree(modules, ignore_errors=True)
        shutil.copytree(RECIPE / "modules", modules)
        prefix = f" -fdebug-prefix-map={modules}=modules -fmacro-prefix-map={modules}/="
        flags = [word + prefix if word.startswith(("KCF", "KAF")) else word for word in make]
        run(*flags, f"M={modules}", "modules")
        (modules / "built").touch()
    return build


# --- guest --------------------------------------------------------------------------------------


def make_initramfs(version: str, work: Path, build: Path, out: Path, kexec: bool) -> None:
    arch, tools = architecture(version), fetch_tools(version, work)
    root = out.parent / "root"
    for directory in ("bin", "modules"):
        (root / directory).mkdir(parents=True)
    shutil.copy(tools / "busybox", root / "bin/busybox")
    for source in (RECIPE / "guest").glob("*.c"):
        program = root / "bin" / source.stem
        run(f"{arch.cross}gcc", "-O1", "-Wall", "-static", "-s", "-o", program, source)
    shutil.copy(RECIPE / "guest/init", root / "init")
    (root / "init").chmod(0o755)
    shutil.copytree(RECIPE / "guest/scenario", root / "scenario")
    for module in (build / "po-modules").glob("*.ko"):
        run(f"{arch.cross}strip", "-g", "-o", root / "modules" / module.name, module)
    if kexec:
        shutil.copytree(tools / "kexec", root / "kexec")
        shutil.copytree(fetch_makedumpfile(version, work), root / "makedumpfile")
    pack_initramfs(root, out)


def pack_initramfs(root: Path, out: Path) -> None:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input="\n".join(names).encode(), cwd=root, check=True, capture_output=True,
    ).stdout  # fmt: skip
    out.write_bytes(gzip.compress(archive, 6, mtime=0))


def make_disk(image: Path, guest: Path) -> Path:
    root = guest / "disk"
    (root / "data").mkdir(parents=True, exist_ok=True)
    for name, text in TEST_FILES.items():
        (root / "data" / name).write_text(text)
    kernel = root / "kernel"
    shutil.copy(image, kernel)
    header = kernel.read_bytes()[:0x264]
    if header[0x202:0x206] == b"HdrS":
        # kexec for i386 assumes that a kernel needs no more memory than the size of its file, and
        # places other data where the kernel unpacks itself. Therefore, extend the file to init_size
        # of its header.
        os.truncate(kernel, max(kernel.stat().st_size, struct.unpack_from("<I", header, 0x260)[0]))
    shutil.copy(guest / "initramfs.gz", root / "initramfs.gz")
    disk = guest / "vda"
    disk.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext2", "-b", "4096", "-d", root, disk, "96M")
    return disk


class Guest:
    """A QEMU guest: its console, and its monitor."""

    line = ""
    """The line that :meth:`wait_for` found."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.monitor_path = directory / "qmp"
        self.monitor_path.unlink(missing_ok=True)
        self.log = (directory / "console.log").open("w")
        self.process = subprocess.Popen(
            [*command, "-qmp", f"unix:{self.monitor_path},server=on,wait=off"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    def wait_for(self, text: str, seconds: float) -> bool:
        """Return whether the guest printed such a line before it ended."""
        assert self.process.stdout
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                self.log.write(line)
                self.log.flush()
                if text in line:
                    self.line = line
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

    def plug(self, dimms: list[dict[str, int]]) -> None:
        """Add memory to the running guest."""
        for number, dimm in enumerate(dimms):
            backend, device = f"dimm{number}-memory", f"dimm{number}"
            memory = {"qom-type": "memory-backend-ram", "id": backend, "size": dimm["mb"] << 20}
            pc_dimm = {"driver": "pc-dimm", "id": device, "memdev": backend}
            place = {"addr": dimm["address"], "node": dimm["node"]}
            self.monitor(("object-add", memory), ("device_add", {**pc_dimm, **place}))

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
              scenario: str, buffer: int, qemu: list[str],
              dimms: list[dict[str, int]]) -> tuple[Path, Path]:  # fmt: skip
    """Boot the guest and take its dump; return the dump, and the archive of the kernel's own
    files."""
    arch = architecture(version)
    image = work / "build" / version / arch.image
    shutil.rmtree(guest, ignore_errors=True)
    guest.mkdir(parents=True)
    make_initramfs(
        version, work, work / "build" / version, guest / "initramfs.gz", kexec=mode == "kdump"
    )
    make_disk(image, guest)
    # One disk for the kernel's own files, one for the dump.
    for disk, size in (("vdb", (buffer + 2) << 20), ("vdc", 1 << 31)):
        with (guest / disk).open("wb") as file:
            file.truncate(size)
    # The kernel uses the last crashkernel=, so a value in append overrides this one.
    crash = f"crashkernel={arch.crashkernel}" if mode == "kdump" else arch.fw_cfg
    options = f"console={arch.console} panic=-1 {crash} {append} "
    options += f"po.dump={mode} po.buffer={buffer} po.work={scenario}"
    command = [
        *arch.qemu, "-smp", "2,sockets=2", "-m", f"{memory}M",
        "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-device", "vmcoreinfo",
        "-kernel", str(image), "-initrd", str(guest / "initramfs.gz"),
        "-append", options, *qemu,
    ]  # fmt: skip
    for disk in ("vda", "vdb", "vdc"):
        command += ["-drive", f"file={guest / disk},format=raw,if=virtio,cache=unsafe"]
    core = guest / "vmcore"
    # If KASLR places the kernel in the middle of memory, there is no room for the capture kernel:
    # try again.
    for _ in range(5):
        vm = Guest(command, guest)
        if dimms and vm.wait_for("HOTPLUG", 900):
            vm.plug(dimms)
        if mode == "kdump":
            if vm.wait_for("makedumpfile: 0", 1800):
                vm.end(30)
                unflatten(guest / "vdc", core)
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


def unflatten(flattened: Path, core: Path) -> None:
    """Rearrange a flattened dump as ``makedumpfile -R`` does, for any architecture."""
    with flattened.open("rb") as source, core.open("wb") as out:
        header = source.read(4096)
        if not header.startswith(b"makedumpfile\0"):
            sys.exit(f"{flattened} is no flattened dump")
        while True:
            offset, size = struct.unpack(">qq", source.read(16))
            if offset < 0:
                break
            out.seek(offset)
            out.write(source.read(size))


# --- what is committed --------------------------------------------------------------------------


def compress(path: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 27}]
    out.write_bytes(lzma.compress(path.read_bytes(), filters=filters))
    print(f"{out.relative_to(TESTDATA)}: {out.stat().st_size:,} bytes", file=sys.stderr)


def pack_vmlinux(version: str, build: Path, out: Path) -> None:
    """
    Write a vmlinux with only the debugging symbols, without data that the dump contains.

    First run dwz, which needs all DWARF sections; then remove sections that no test needs.
    """
    whole, slim = build / "vmlinux.dwz", build / "vmlinux.slim"
    run("dwz", "-l", "none", "-L", "none", "-o", whole, build / "vmlinux")
    run(
        f"{architecture(version).cross}objcopy", "--only-keep-debug",
        "--remove-section=.debug_loclists", "--remove-section=.debug_loc",
        "--remove-section=.debug_frame", "--remove-section=.rela*", whole, slim,
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


def pack_dump(core: Path, truth: Path, out: Path) -> None:
    """Compress the whole dump with xz. Its pages are not compressed, which needs a quarter of the
    space of LZO-compressed pages."""
    compress(core, out / "vmcore.xz")
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
    parser.add_argument("--buffer", type=int, help="room for the truth in the guest, MB")
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
            f"{dump['append']} {args.append}", args.scenario or dump["scenario"],
            args.buffer or dump.get("buffer", 32),
            dump.get("qemu", []), dump.get("dimms", []),
        )  # fmt: skip
        if args.stop_after == "dump":
            print(core, truth)
            continue
        directory = TESTDATA / f"linux-{dump['kernel']}"
        pack_vmlinux(dump["kernel"], build, directory / "vmlinux.xz")
        pack_modules(build, directory / "modules.tar.xz")
        pack_dump(core, truth, TESTDATA / name)


if __name__ == "__main__":
    main()
