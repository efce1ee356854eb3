"""Several hosts on one machine: names of their own, or network namespaces with an address and an sshd each."""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

# Both ends of the cable have one name: Horovod takes only interfaces that every host has.
INTERFACE = "tfpipe0"
# Of the documentation network (RFC 5737); the namespaces reach nothing but each other.
NAMES = {"machine-1": "198.51.100.1", "machine-2": "198.51.100.2"}
_WAIT_S = 20.0


def local_host_names(count: int) -> list[str]:
    """Names that all mean this machine; to horovodrun, which starts workers there without ssh, each is another host.

    Elastic Horovod gives up the whole host of a worker that dies: on one machine, workers that are to survive each
    other need one name each.
    """
    # 127.1 and 127.0.0.01 are ways to write 127.0.0.1 (inet_aton), which needs no entry in /etc/hosts.
    return ["localhost", "127.0.0.1", "127.0.1", "127.1", *(f"127.0.0.{1:0{n}}" for n in range(2, count))][:count]


def missing_for_two_hosts() -> str | None:
    """Why `two_hosts` cannot work on this machine; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    for program, package in (("ip", "iproute2"), ("ssh", "openssh-client"), (_sshd(), "openssh-server")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: {package})"
    probe = f"tfpipe-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return None


@dataclass(frozen=True)
class Host:
    """One of two hosts.

    Attributes:
        name: Its host name; both hosts know both names.
        namespace: Its network namespace.
    """

    name: str
    namespace: str

    def command(self, *command: str) -> list[str]:
        """The command that runs `command` on this host, under its name."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {self.name} && exec "$@"', "sh"]
        return ["ip", "netns", "exec", self.namespace, *named, *command]

    def know(self, names: Mapping[str, str]) -> None:
        """Set what /etc/hosts says on this host, for commands started from now on: addresses by name."""
        lines = [f"{address} {name}" for name, address in {"localhost": "127.0.0.1", **names}.items()]
        # ip mounts this file over /etc/hosts for what it starts.
        file = _files_of(self.namespace) / "hosts"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")

    def processes(self) -> list[psutil.Process]:
        """What runs on this host."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        processes = []
        for number in found.stdout.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(int(number)))
        return processes


@dataclass(frozen=True)
class TwoHosts:
    """Two hosts on one cable that log in to each other by ssh, and share this machine's files.

    Attributes:
        first: Where the launcher is started.
        second: The other.
        environment: For processes on the first host: `ssh` there has a key and takes nothing from the user's own files.
    """

    first: Host
    second: Host
    environment: dict[str, str]

    def cut(self) -> None:
        """Take the second host off the network."""
        _ip("-netns", self.second.namespace, "link", "set", INTERFACE, "down")

    def mend(self) -> None:
        """Undo `cut`."""
        _ip("-netns", self.second.namespace, "link", "set", INTERFACE, "up")


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two network namespaces, joined by a cable, each with an sshd; both gone afterwards, with all that runs in them.

    Args:
        folder: Empty; takes keys and logs.
    """
    _remove_those_of_dead_processes()
    hosts = [Host(name, f"tfpipe-{os.getpid()}-{i}") for i, name in enumerate(NAMES)]
    with contextlib.ExitStack() as held:
        for host in hosts:
            held.callback(_remove, host.namespace)
            _ip("netns", "add", host.namespace)
            _ip("-netns", host.namespace, "link", "set", "lo", "up")
            host.know(NAMES)
        # Made in the first namespace, one end moved to the second: nothing appears on the machine's own network.
        _ip("-netns", hosts[0].namespace, "link", "add", INTERFACE, "type", "veth",
            "peer", "name", INTERFACE, "netns", hosts[1].namespace)  # fmt: skip
        for host in hosts:
            _ip("-netns", host.namespace, "address", "add", f"{NAMES[host.name]}/24", "dev", INTERFACE)
            _ip("-netns", host.namespace, "link", "set", INTERFACE, "up")
        environment = _ssh_environment(folder)
        for host in hosts:
            held.enter_context(_running_sshd(host, folder))
        yield TwoHosts(*hosts, environment)


def _ssh_environment(folder: Path) -> dict[str, str]:
    """Keys, and an `ssh` that reads this folder alone: neither the user's keys nor known hosts are touched."""
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "user_key.pub").rename(folder / "authorized_keys")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        f"  User {getpass.getuser()}\n  LogLevel ERROR\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    # horovodrun keeps what it found out about hosts in ~/.horovod for an hour.
    home = folder / "home"
    home.mkdir()
    return {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "HOME": str(home)}


@contextlib.contextmanager
def _running_sshd(host: Host, folder: Path) -> Iterator[None]:
    # Debian's sshd refuses to start without it; a boot makes it, a container does not.
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": NAMES[host.name], "HostKey": folder / "host_key", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password", "UseDNS": "no",
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    with open(folder / f"sshd-{host.name}.log", "wb") as log:
        process = subprocess.Popen(
            host.command(_sshd(), "-D", "-e", "-f", "/dev/null", *arguments), stdout=log, stderr=log
        )
        try:
            _wait_for_port(host, process, Path(log.name))
            yield
        finally:
            process.terminate()
            process.wait(timeout=_WAIT_S)


def _wait_for_port(host: Host, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while "Server listening" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd did not start on {host.name}: {log.read_text()}")
        time.sleep(0.02)


def _remove(namespace: str) -> None:
    """End what runs in a namespace, and delete it; its end of the cable goes with it."""
    processes = Host("", namespace).processes()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=_WAIT_S)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
    shutil.rmtree(_files_of(namespace), ignore_errors=True)


def _files_of(namespace: str) -> Path:
    return Path("/etc/netns") / namespace


def _remove_those_of_dead_processes() -> None:
    """Namespaces that a test run left which was itself killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        parts = line.split()[0].split("-")
        if parts[0] == "tfpipe" and len(parts) == 3 and not psutil.pid_exists(int(parts[1])):
            _remove("-".join(parts))


def _sshd() -> str:
    # Started by its full path, as it demands; /usr/sbin is not on every PATH.
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") or "sshd"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
