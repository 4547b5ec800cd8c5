"""The ground of the measurements: generated TPC-H data and a private PostgreSQL, all below one work folder."""

import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

LINEITEM = """
    l_orderkey bigint not null, l_partkey bigint not null, l_suppkey bigint not null, l_linenumber integer not null,
    l_quantity numeric(15,2) not null, l_extendedprice numeric(15,2) not null, l_discount numeric(15,2) not null, l_tax numeric(15,2) not null,
    l_returnflag {char1} not null, l_linestatus {char1} not null, l_shipdate date not null, l_commitdate date not null,
    l_receiptdate date not null, l_shipinstruct {char25} not null, l_shipmode {char10} not null, l_comment {varchar44} not null"""
ORDERS = """
    o_orderkey bigint not null, o_custkey bigint not null, o_orderstatus char(1) not null, o_totalprice numeric(15,2) not null,
    o_orderdate date not null, o_orderpriority char(15) not null, o_clerk char(15) not null, o_shippriority integer not null,
    o_comment varchar(79) not null"""
LINEITEM_TYPED = LINEITEM.format(char1="char(1)", char25="char(25)", char10="char(10)", varchar44="varchar(44)")
LINEITEM_TEXT = LINEITEM.format(char1="text", char25="text", char10="text", varchar44="text")

# As one would set a server for a bulk load; durability off, because the disk is not what is measured.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "1GB",
    "max_connections": "50",
    "listen_addresses": "127.0.0.1",
}


class Ground:
    """The work folder. `source` and `target` are URLs of two databases on the server."""

    def __init__(self, folder, scale):
        self.folder = os.path.abspath(folder)
        self.scale = scale
        self.data = os.path.join(self.folder, f"tpch-{scale}")
        self.settings = dict(SETTINGS)
        self.server_pid = None
        self.port = None

    def path(self, *names):
        return os.path.join(self.folder, *names)

    # Data.

    def generate(self):
        """Makes lineitem and orders as CSV with tpchgen-cli, once."""
        if os.path.exists(os.path.join(self.data, "done")):
            return
        os.makedirs(self.data, exist_ok=True)
        tool = self.tool("tpchgen-cli==4.0.0", "tpchgen-cli")
        for name in ("lineitem", "orders"):
            subprocess.run([tool, "csv", "--quiet", "--overwrite", f"--scale-factor={self.scale}", f"--tables={name}", f"--output-dir={self.data}"], check=True)
        open(os.path.join(self.data, "done"), "w").close()

    def csv(self, name):
        return os.path.join(self.data, f"{name}.csv")

    def tool(self, package, program):
        """A program of a Python package, installed into a virtual environment of its own when it is not there."""
        venv = self.path("venv-" + re.split(r"[=\[ ]", package)[0])
        found = os.path.join(venv, "bin", program)
        if not os.path.exists(found):
            print(f"installing {package}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([os.path.join(venv, "bin", "pip"), "install", "--quiet", *package.split()], check=True)
        return found

    # Server.

    def start(self):
        """Starts the server; the cluster, its databases and the source tables are made on the first start."""
        self.programs = self._programs()
        cluster = self.path(f"cluster-{self.scale}")
        made = os.path.exists(os.path.join(cluster, "made"))
        if not made:
            shutil.rmtree(cluster, ignore_errors=True)
            os.makedirs(cluster)
            self._give_away(cluster)
            self._as_user([self._program("initdb"), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-D", cluster + "/data"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [self._program("postgres"), "-D", cluster + "/data", "-p", str(self.port), "-c", f"unix_socket_directories={cluster}"]
        for name, value in self.settings.items():
            words += ["-c", f"{name}={value}"]
        log = open(self.path("server.log"), "ab")
        self.process = subprocess.Popen(self._words(words), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
        self.server_pid = self.process.pid
        self._wait()
        if not made:
            self._load()
            open(os.path.join(cluster, "made"), "w").close()

    def stop(self):
        if self.server_pid:
            os.kill(self.server_pid, signal.SIGINT)
            self.process.wait()

    def url(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def source(self):
        return self.url("source")

    @property
    def target(self):
        return self.url("target")

    @property
    def psql(self):
        """The program itself: Debian's /usr/bin/psql is a Perl wrapper that costs 50 ms."""
        return self._program("psql") + " -X -q -v ON_ERROR_STOP=1"

    def sql(self, url, sql):
        words = [*self.psql.split(), "-A", "-t", "-d", url, "-c", sql]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def settle(self):
        """Lets every run begin with the same debts: none."""
        self.sql(self.target, "checkpoint")

    def _load(self):
        for database in ("source", "target"):
            self.sql(self.url("postgres"), f"create database {database}")
        for name, columns in (("lineitem", LINEITEM_TYPED), ("orders", ORDERS)):
            self.sql(self.source, f"create table {name} ({columns})")
            self.sql(self.source, f"\\copy {name} from '{self.csv(name)}' (format csv, header)")
        self.sql(self.source, "alter table orders add primary key (o_orderkey)")
        self.sql(self.source, "vacuum (freeze, analyze)")

    def _wait(self):
        for _ in range(600):
            ask = [self._program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(ask).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit(f"the server does not start: see {self.path('server.log')}")

    def _programs(self):
        folders = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
        if folders:
            return os.path.dirname(folders[-1])
        found = shutil.which("initdb")
        if not found:
            raise SystemExit("no PostgreSQL server is installed: apt-get install postgresql")
        return os.path.dirname(os.path.realpath(found))

    def _program(self, name):
        return os.path.join(self.programs, name)

    def _user(self):
        """The server refuses to run as root."""
        return pwd.getpwnam("postgres") if os.geteuid() == 0 else None

    def _words(self, words):
        user = self._user()
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--", *words] if user else words

    def _as_user(self, words):
        subprocess.run(self._words(words), check=True, cwd="/", stdout=subprocess.DEVNULL)

    def _give_away(self, folder):
        user = self._user()
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
