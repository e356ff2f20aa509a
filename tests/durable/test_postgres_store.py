"""What only `PostgresStore` has: its URL, checks of the server, roles, schema versions, and proxies."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from codomyrmex.integrations.durable import (
    PostgresStore,
    Retention,
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
    open_store,
)
from codomyrmex.integrations.durable.store import Batch
from durable.proxy import Proxy
from durable.servers import PASSWORD, USER, PostgresServer, free_port, need, server_user, setpriv
from durable.stores import leaks
from helpers import DEADLINE

LONG = 60.0


def schema_of(url):
    return url.rpartition("schema=")[2]


@asynccontextmanager
async def connection(url):
    direct = await asyncpg.connect(url.partition("?")[0])
    try:
        yield direct
    finally:
        await direct.close()


async def values(store, log="log"):
    return [entry.value for entry in await store.read(log, 0, 10_000)]


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:pass@host:5433/db", "postgresql://host:5433/db"),
        ("postgres://user@host/db", "postgresql://host/db"),
        ("postgresql://user:p%40ss@a:1,b:2/db?target_session_attrs=primary", "postgresql://a:1,b:2/db"),
        ("postgresql://[::1]:5432/db?schema=events", "postgresql://[::1]:5432/db?schema=events"),
        ("postgresql:///db?host=/run/postgresql&port=5433", "postgresql:///run/postgresql/db"),
        ("postgresql://host/db?sslmode=verify-full&sslrootcert=ca.pem", "postgresql://host/db"),
    ],
)
def test_a_url_is_shown_without_credentials(url, shown):
    store = open_store(url)
    assert isinstance(store, PostgresStore)
    assert store.url == shown
    assert repr(store) == f"PostgresStore({shown!r})"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://host/db?pool=5&password=secret", "unknown parameters: password, pool; remove them"),
        ("postgresql://host/db?schema=My-Schema", "schema: must consist of a-z, 0-9 and _, got 'My-Schema'"),
        ("postgresql://host/db?schema=" + "x" * 64, "schema: must consist of a-z"),
        ("postgresql://host:0/db", "port: must be from 1 to 65535, got 0"),
        ("postgresql://host:5432,other:99999/db", "port: must be from 1 to 65535, got 5432, 99999"),
        ("postgresql:///db?host=/tmp&port=secret", "port: must be from 1 to 65535"),
        ("postgresql://host/db?schema", "must be like postgresql://"),
        ("postgresql://host:port/db", "must be like postgresql://"),
        ("postgresql://[::1/db", "must be like postgresql://"),
        ("mysql://host/db", "must be like postgresql://"),
        # Passwords with characters that should be escaped.
        ("postgresql://user:secret@1@host/db", "as %40, %2F, %3F and %23"),
        ("postgresql://user:secret/1@host/db", "as %40, %2F, %3F and %23"),
        ("postgresql://user:12345/secret@host/db", "as %40, %2F, %3F and %23"),
        ("postgresql://user:12345?secret=@host/db", "as %40, %2F, %3F and %23"),
        ("postgresql://user:secret#@host/db", "as %40, %2F, %3F and %23"),
        ("postgresql://user:[secret@host/db", "as %40, %2F, %3F and %23"),
    ],
)
def test_a_malformed_url_is_refused_without_showing_the_password(url, message):
    with pytest.raises(StoreConfigError) as caught:
        PostgresStore(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value).replace("got secret", "")
    assert caught.value.__cause__ is None


def test_the_timeout_must_be_positive():
    with pytest.raises(ValueError, match="timeout: must be greater than 0, got 0s"):
        PostgresStore("postgresql://host/db", timeout=0)


@pytest.mark.parametrize("parameter", ["sslmode=perhaps", "target_session_attrs=some"])
async def test_a_parameter_whose_value_the_driver_refuses_is_an_error_at_open(postgres_server, parameter):
    with pytest.raises(StoreConfigError, match=parameter.partition("=")[0]):
        await PostgresStore(f"{postgres_server.fresh_url()}&{parameter}").open()


async def test_a_host_that_is_no_name_is_an_error_at_open():
    with pytest.raises(StoreConfigError, match="check the URL"):
        await PostgresStore(f"postgresql://{'x' * 70}.example/db").open()


async def test_a_store_connects_through_a_unix_socket():
    server = PostgresServer()
    server.settings["unix_socket_directories"] = str(server.folder)
    with server:
        login = f"{USER}:{quote(PASSWORD, safe='')}"
        url = f"postgresql://{login}@/postgres?host={server.folder}&port={server.port}"
        async with PostgresStore(url) as store:
            await store.create_log("log")
            assert await store.logs() == ["log"]
            assert not leaks(store.url)


# Logins and roles


async def test_a_wrong_password_is_a_configuration_error(postgres_server):
    url = postgres_server.fresh_url().replace(quote(PASSWORD, safe=""), "wrong-one")
    with pytest.raises(StoreConfigError, match="password authentication failed") as caught:
        await PostgresStore(url).open()
    assert "wrong-one" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_a_configuration_error(postgres_server):
    with pytest.raises(StoreConfigError, match='database "nowhere" does not exist'):
        await PostgresStore(postgres_server.fresh_url().replace("/postgres?", "/nowhere?")).open()


@asynccontextmanager
async def role(url, *grants):
    """Make a role with some privileges, and give the URL for it."""
    name = f"role_{schema_of(url)}"
    async with connection(url) as direct:
        await direct.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'guest'")
        for grant in grants:
            await direct.execute(f"GRANT {grant} TO {name}")
        try:
            yield url.replace(f"{USER}:{quote(PASSWORD, safe='')}", f"{name}:guest")
        finally:
            await direct.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_role_that_cannot_create_a_schema_is_a_configuration_error(postgres_server):
    async with role(postgres_server.fresh_url()) as url:
        with pytest.raises(StoreConfigError, match="permission denied for database postgres"):
            await PostgresStore(url).open()


async def test_a_role_that_can_only_use_the_schema_is_enough_once_it_exists(postgres_server):
    url = postgres_server.fresh_url()
    schema = schema_of(url)
    await (owner := PostgresStore(url)).open()
    await owner.close()
    grants = [
        f"USAGE ON SCHEMA {schema}",
        f"SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}",
    ]
    async with role(url, *grants) as guest, PostgresStore(guest) as store:
        await store.create_log("log")
        assert await store.append("log", Batch("p", 1, [b"x", b"y"])) == 1
        assert await store.trim("log", Retention(max_events=1), 2) == 1
        lease = await store.acquire("lease", "owner", LONG)
        await store.save(lease, {"value": b"1"})
        assert await values(store) == [b"y"]


async def test_a_role_that_may_only_own_an_empty_schema_creates_the_tables(postgres_server):
    url = postgres_server.fresh_url()
    async with connection(url) as direct:
        await direct.execute(f"CREATE SCHEMA {schema_of(url)}")
    async with role(url, f"ALL ON SCHEMA {schema_of(url)}") as guest, PostgresStore(guest) as store:
        await store.create_log("log")
        assert await store.logs() == ["log"]


# The schema


async def test_a_newer_schema_that_is_compatible_is_used(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        await direct.execute(f"UPDATE {schema_of(url)}.meta SET version = 9, compatible_since = 1")
    async with PostgresStore(url) as store, connection(url) as direct:
        assert await store.append("log", Batch("p", 1, [b"x"])) == 1
        assert await direct.fetchval(f"SELECT version FROM {schema_of(url)}.meta") == 9


async def test_a_newer_schema_that_is_not_compatible_is_refused(postgres_server):
    url = postgres_server.fresh_url()
    store = PostgresStore(url)
    await store.open()
    await store.close()
    async with connection(url) as direct:
        await direct.execute(f"UPDATE {schema_of(url)}.meta SET version = 9, compatible_since = 8")
    with pytest.raises(StoreConfigError, match="has version 9, which needs a newer codomyrmex-streaming"):
        await store.open()


async def test_tables_of_others_are_left_alone(postgres_server):
    url = postgres_server.fresh_url()
    async with connection(url) as direct:
        await direct.execute(f"CREATE SCHEMA {schema_of(url)}; CREATE TABLE {schema_of(url)}.state (x int)")
        with pytest.raises(StoreConfigError, match='relation "state" already exists'):
            await PostgresStore(url).open()
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
        assert [name for (name,) in await direct.fetch(tables, schema_of(url))] == ["state"]


async def test_a_schema_that_was_dropped_is_an_error_until_the_store_is_opened_again(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        await direct.execute(f"DROP SCHEMA {schema_of(url)} CASCADE")
        with pytest.raises(StoreConfigError, match="does not exist"):
            await store.append("log", Batch("p", 1, [b"x"]))
        await store.close()
        await store.open()
        assert await store.logs() == []


# Servers


async def test_a_server_that_preserves_everything_gives_no_warning(postgres_server):
    async with PostgresStore(postgres_server.fresh_url()) as store:
        assert store.warnings == ()


async def test_what_a_server_does_not_preserve_is_a_warning():
    with PostgresServer(synchronous_commit="off", fsync="off", full_page_writes="off") as server:
        url = server.fresh_url()
        async with PostgresStore(url) as store, connection(url) as direct:
            losses = [warning.removeprefix(f"{store.url}: ") for warning in store.warnings]
            await direct.execute(f"ALTER TABLE {schema_of(url)}.entries SET UNLOGGED")
        database = "is off, so a crash of its host can destroy the database; turn it on"
        newest = "is off, so a crash of the server loses the last fraction of a second; turn it on"
        assert losses == [f"fsync {database}", f"full_page_writes {database}", f"synchronous_commit {newest}"]
        async with PostgresStore(url) as store:
            [unlogged] = [warning for warning in store.warnings if "UNLOGGED" in warning]
        assert "the table entries is UNLOGGED, so a crash of the server empties it; SET LOGGED" in unlogged


async def test_a_replica_is_refused_at_open_and_waited_for_in_a_failover():
    with PostgresServer() as server:
        store = PostgresStore(server.fresh_url())
        await store.open()
        await store.create_log("log")
        server.stop()
        signal = server.data / "standby.signal"
        signal.touch()
        server.start()
        with pytest.raises(StoreConfigError, match="a replica, which cannot be written to; use the primary"):
            await PostgresStore(server.fresh_url()).open()
        with pytest.raises(StoreUnavailableError, match="is a replica"):
            await store.append("log", Batch("p", 1, [b"x"]))
        async with connection(server.url) as direct:
            assert await direct.fetchval("SELECT pg_promote()")
        assert await store.append("log", Batch("p", 1, [b"x"])) == 1
        await store.close()


async def test_a_server_that_became_read_only_is_asked_again_on_a_new_connection(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        await direct.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await direct.execute("SELECT pg_reload_conf()")
        try:
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(StoreUnavailableError, match="read-only transaction"):
                    while True:
                        await store.create_log("log")
        finally:
            await direct.execute("SET default_transaction_read_only = off")
            await direct.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await direct.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    await store.create_log("log")
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_isolation_level_of_the_role_does_not_matter(level):
    with PostgresServer(default_transaction_isolation=level) as server:
        url = server.fresh_url()
        async with PostgresStore(url) as one, PostgresStore(url) as other:
            await one.create_log("log")
            appends = [
                store.append("log", Batch(f"p{number}", 1, [b"x"] * 20))
                for number, store in enumerate([one, other] * 20)
            ]
            firsts = await asyncio.gather(*appends)
            assert sorted(firsts) == list(range(1, 801, 20))


async def test_connections_that_the_server_ends_are_made_again(postgres_server):
    url = postgres_server.fresh_url()
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
    async with PostgresStore(f"{url}&application_name=victim") as store, connection(url) as direct:
        await store.create_log("log")
        for number in range(1, 4):
            await direct.fetch(end, "victim")
            async with asyncio.timeout(DEADLINE):
                while True:
                    try:
                        await store.wait("log", number - 1, 0.01)
                        assert await store.append("log", Batch("p", number, [b"x"])) == number
                        break
                    except StoreUnavailableError:
                        pass


async def test_a_process_has_at_most_five_connections_under_the_name_of_the_package(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        appends = (store.append("log", Batch(f"p{number}", 1, [b"x"])) for number in range(60))
        await asyncio.gather(*appends, store.wait("log", 0, 1), store.wait("log", 1, 1))
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'codomyrmex-streaming'"
        assert await direct.fetchval(count) == 5


# Appending


async def test_an_append_that_waits_too_long_for_another_is_unavailable_and_can_be_repeated(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url, timeout=0.3) as store, connection(url) as direct:
        await store.create_log("log")
        batch = Batch("p", 1, [b"x"])
        async with direct.transaction():
            await direct.execute(f"SELECT FROM {schema_of(url)}.logs FOR UPDATE")
            with pytest.raises(StoreUnavailableError):
                await store.append("log", batch)
            # The server has ended the statement as well: it does not append later, unasked.
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            async with asyncio.timeout(DEADLINE):
                while await direct.fetchval(waiting):
                    await asyncio.sleep(0.02)
        assert await values(store) == []
        assert await store.append("log", batch) == 1
        assert await values(store) == [b"x"]


async def test_a_batch_older_than_the_newest_of_its_producer_is_refused(postgres_server):
    async with PostgresStore(postgres_server.fresh_url()) as store:
        await store.create_log("log")
        await store.append("log", Batch("p", 1, [b"1"]))
        await store.append("log", Batch("p", 3, [b"3"]))
        with pytest.raises(StoreError, match="batch 2 of p comes after its batch 3"):
            await store.append("log", Batch("p", 2, [b"2"]))
        assert await values(store) == [b"1", b"3"]
        assert (await store.bounds("log"))[1:] == (1, 2, 2)


async def test_a_batch_that_is_too_large_is_refused_before_it_is_sent(postgres_server):
    async with PostgresStore(postgres_server.fresh_url()) as store:
        await store.create_log("log")
        with pytest.raises(StoreError, match="a batch has at most 268435456 bytes, got 314572800"):
            await store.append("log", Batch("p", 1, [bytes(1024 * 1024)] * 300))


async def test_a_position_beyond_all_that_the_server_counts_is_refused(postgres_server):
    async with PostgresStore(postgres_server.fresh_url()) as store:
        await store.create_log("log")
        with pytest.raises(StoreError, match="out of int64 range"):
            await store.read("log", 2**63, 1)
        assert await values(store) == []


async def test_producers_that_were_not_used_for_two_days_are_forgotten_when_a_log_is_trimmed(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        for name in ("old", "new"):
            await store.append("log", Batch(name, 1, [b"x"]))
        table = f"{schema_of(url)}.producers"
        await direct.execute(f"UPDATE {table} SET used = used - 2 * 86400 WHERE producer = 'old'")
        await store.trim("log", Retention(), 2)
        assert [name for (name,) in await direct.fetch(f"SELECT producer FROM {table}")] == ["new"]


async def test_the_space_of_what_is_trimmed_is_used_again(postgres_server):
    url = postgres_server.fresh_url()
    sizes = []
    async with PostgresStore(url) as store, connection(url) as direct:
        await store.create_log("log")
        for number in range(1, 241):
            await store.append("log", Batch("p", number, [b"x" * 50] * 1000))
            if number % 4 == 0:
                await store.trim("log", Retention(max_events=2_000), 1_000_000)
            if number % 80 == 0:
                query = f"SELECT pg_total_relation_size('{schema_of(url)}.entries')"
                sizes.append(await direct.fetchval(query))
        assert sizes[-1] <= 1.2 * sizes[0]
        assert (await store.bounds("log"))[1:] == (238_001, 240_000, 100_000)


# Proxies


@pytest.fixture
def bouncer(postgres_server):
    """Run PgBouncer in front of the server, with its mode that shares connections most; give a URL."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    need(program, "Debian's pgbouncer")
    port = free_port()
    config = postgres_server.folder / "pgbouncer.ini"  # a folder that the user of the server can read
    config.write_text(
        "[databases]\n"
        f"postgres = host=127.0.0.1 port={postgres_server.port} user={USER} password={PASSWORD}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    command = [*setpriv(server_user(), "--pdeathsig", "KILL"), program, str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + DEADLINE
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            yield f"postgresql://anyone@127.0.0.1:{port}/postgres?schema={schema_of(postgres_server.fresh_url())}"
        finally:
            process.kill()


async def test_a_store_works_through_a_proxy_that_shares_connections(bouncer):
    async with PostgresStore(bouncer) as one, PostgresStore(bouncer) as other:
        await one.create_log("log")
        total = 2 * 20 * 3

        async def write(store, name):
            for number in range(1, 21):
                await store.append("log", Batch(name, number, [f"{name} {number}".encode()] * 3))

        async def follow(store):
            seen = []
            while len(seen) < total:
                seen += await store.read("log", len(seen), 50)
                await store.wait("log", len(seen), 0.5)
            return seen

        async with asyncio.timeout(20):
            entries, *_ = await asyncio.gather(follow(other), write(one, "one"), write(other, "other"))
        assert [entry.position for entry in entries] == list(range(1, total + 1))
        lease = await one.acquire("lease", "one", LONG)
        assert await other.acquire("lease", "other", LONG) is None
        await one.save(lease, {"value": b"x"})
        assert await other.load("") == {"value": b"x"}


async def test_entries_of_others_are_found_soon_through_a_proxy_which_cannot_ring(bouncer):
    async with PostgresStore(bouncer) as one, PostgresStore(bouncer) as other:
        await one.create_log("log")
        waiting = asyncio.create_task(other.wait("log", 0, LONG))
        await asyncio.sleep(0.3)
        await one.append("log", Batch("p", 1, [b"x"]))
        async with asyncio.timeout(DEADLINE):
            await waiting


async def test_a_proxy_is_no_place_for_settings_of_a_session(bouncer, postgres_server):
    async with PostgresStore(bouncer) as store, connection(bouncer) as direct:
        await asyncio.gather(*(store.bounds("log") for _ in range(20)))
        for _ in range(5):
            assert await direct.execute("SELECT 1") == "SELECT 1"
            row = await direct.fetchrow(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
                " current_setting('default_transaction_isolation')"
            )
            assert tuple(row) == ("0", "0", "read committed")


async def test_another_isolation_level_behind_a_proxy_is_refused(bouncer, postgres_server):
    async with connection(postgres_server.url) as direct:
        await direct.execute(f"ALTER ROLE {USER} SET default_transaction_isolation = 'serializable'")
        try:
            with pytest.raises(StoreConfigError, match="must be read committed, got serializable"):
                await PostgresStore(bouncer).open()
        finally:
            await direct.execute(f"ALTER ROLE {USER} RESET default_transaction_isolation")


async def test_a_proxy_that_comes_between_later_is_noticed(bouncer, postgres_server):
    with Proxy(postgres_server.port) as proxy:
        async with PostgresStore(proxy.url(postgres_server.fresh_url())) as store:
            await store.create_log("log")
            await asyncio.gather(*(store.bounds("log") for _ in range(10)))
            proxy.cut()
            proxy.target = urlsplit(bouncer).port
            proxy.heal()
            async with asyncio.timeout(DEADLINE):
                for number in range(1, 21):
                    await repeated(store, Batch("p", number, [b"x"]))
                await store.wait("log", 0, 1)
            assert (await store.bounds("log")).last == 20


async def repeated(store, batch):
    while True:
        try:
            return await store.append("log", batch)
        except StoreUnavailableError:
            await asyncio.sleep(0.01)


# Closing


async def test_calls_that_meet_a_close_end_with_an_answer_or_as_unavailable(postgres_server):
    store = PostgresStore(postgres_server.fresh_url())
    await store.create_log("log")
    for step in range(6):
        numbers = range(50 * step, 50 * step + 50)
        appends = [asyncio.create_task(store.append("log", Batch(f"p{n}", 1, [b"%d" % n]))) for n in numbers]
        await asyncio.sleep(0.003 * step)
        await store.close()
        async with asyncio.timeout(DEADLINE):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
        errors = [outcome for outcome in outcomes if not isinstance(outcome, int)]
        assert all(isinstance(error, StoreUnavailableError) for error in errors), errors
        stored = set(await values(store))
        for number, outcome in zip(numbers, outcomes, strict=True):
            assert b"%d" % number in stored or not isinstance(outcome, int)
    await store.close()


async def test_a_close_while_the_store_looks_for_entries_leaves_no_error(postgres_server, caplog):
    store = PostgresStore(postgres_server.fresh_url())
    for turns in range(10):
        await store.open()
        waiting = asyncio.create_task(store.wait("log", 0, LONG))
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.close()
        waiting.cancel()
        await asyncio.wait([waiting])
    gc.collect()  # asyncio reports what no one has retrieved
    assert not caplog.records


async def test_a_log_that_does_not_exist_has_no_epoch_to_renew(postgres_server):
    async with PostgresStore(postgres_server.fresh_url()) as store:
        with pytest.raises(StoreError, match="there is no log 'log'; create it first"):
            await store.renew_epoch("log", "epoch")


async def test_waiting_opens_the_store(postgres_server):
    url = postgres_server.fresh_url()
    async with PostgresStore(url) as store:
        await store.create_log("log")
        await store.append("log", Batch("p", 1, [b"x"]))
    store = PostgresStore(url)
    async with asyncio.timeout(DEADLINE):
        await store.wait("log", 0, LONG)
    await store.close()


# Forks


FORKING = """
    import asyncio, gc, os, sys
    from codomyrmex.integrations.durable import PostgresStore
    from codomyrmex.integrations.durable.store import Batch

    async def main():
        store = PostgresStore(sys.argv[1])
        await store.open()
        await store.create_log("log")
        await asyncio.gather(*(store.append("log", Batch(f"p{n}", 1, [b"x"])) for n in range(8)))
        waiting = asyncio.create_task(store.wait("log", 100, 0.3))
        await asyncio.sleep(0.1)
        child = os.fork()
        if child == 0:
            store.abandon()
            gc.collect()
            os._in_child = True
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        await waiting
        async with asyncio.timeout(20):
            await asyncio.gather(*(store.append("log", Batch(f"p{n}", 2, [b"x"])) for n in range(8)))
        print((await store.bounds("log")).last)
        await store.close()

    asyncio.run(main())
"""


def test_a_child_that_ends_in_the_usual_way_leaves_the_connections_to_its_parent(postgres_server):
    program = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(FORKING), postgres_server.fresh_url()],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (program.returncode, program.stdout) == (0, "16\n"), program.stderr
    assert "ResourceWarning" not in program.stderr
