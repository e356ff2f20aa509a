"""The SQL of `PostgresStore`; `{0}` stands for its schema."""

VERSION = 1
"""The version of the schema that this code needs; the schema says which versions can use it."""

# Fixed-size columns first. Rows that change with each append or save have room for their new versions on the
# page; entries are removed at the front, so vacuum comes early, for whole pages that are used again.
SCHEMA = """
SELECT pg_advisory_xact_lock(hashtextextended('codomyrmex ' || '{0}', 0));
DO $do$ BEGIN
IF EXISTS (SELECT FROM pg_tables WHERE schemaname = '{0}' AND tablename = 'meta') THEN RETURN; END IF;
IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{0}') THEN CREATE SCHEMA "{0}"; END IF;
CREATE TABLE "{0}".meta (version int NOT NULL, compatible_since int NOT NULL);
INSERT INTO "{0}".meta VALUES (1, 1);
CREATE TABLE "{0}".logs (
    first bigint NOT NULL DEFAULT 1, last bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0,
    id int GENERATED ALWAYS AS IDENTITY, name text COLLATE "C" PRIMARY KEY, epoch text NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE "{0}".entries (
    pos bigint NOT NULL, time float8 NOT NULL, log int NOT NULL, value bytea NOT NULL, PRIMARY KEY (log, pos)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
COMMENT ON COLUMN "{0}".entries.time IS 'seconds since 1970; to_timestamp(time)';
CREATE TABLE "{0}".producers (
    number bigint NOT NULL, first bigint NOT NULL, used float8 NOT NULL, log int NOT NULL,
    producer text COLLATE "C" NOT NULL, PRIMARY KEY (log, producer)
) WITH (fillfactor = 50);
CREATE TABLE "{0}".leases (
    token bigint NOT NULL, expires float8 NOT NULL, name text COLLATE "C" PRIMARY KEY, owner text NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN "{0}".leases.expires IS 'seconds since 1970; 0 if the lease was released';
CREATE TABLE "{0}".state (name text COLLATE "C" PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 50);

-- Entries and values come joined, with the offset of each and of the end: the driver would have to look up
-- the type of an array of bytea on each new connection, which takes longer than to connect.

-- The position of the first entry, NULL if there is no such log, minus the newest number if this is older.
CREATE FUNCTION "{0}".append(log_name text, by text, batch bigint, joined bytea, offsets oid[])
RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE
    size bigint := octet_length(joined); n int := cardinality(offsets) - 1;
    at float8; start bigint; log_id int; was "{0}".producers;
BEGIN
    UPDATE "{0}".logs SET last = last + n, bytes = bytes + size WHERE name = log_name
        RETURNING id, last - n + 1 INTO log_id, start;
    IF NOT FOUND THEN RETURN NULL; END IF;
    at := extract(epoch FROM clock_timestamp());
    INSERT INTO "{0}".producers AS p (log, producer, number, first, used)
        VALUES (log_id, by, batch, start, at)
        ON CONFLICT (log, producer) DO UPDATE SET number = batch, first = start, used = at
        WHERE p.number < batch;
    IF NOT FOUND THEN
        UPDATE "{0}".logs SET last = last - n, bytes = bytes - size WHERE id = log_id AND name = log_name;
        SELECT * INTO was FROM "{0}".producers p WHERE p.log = log_id AND p.producer = by;
        RETURN CASE WHEN was.number = batch THEN was.first ELSE -was.number END;
    END IF;
    INSERT INTO "{0}".entries (log, pos, time, value)
        SELECT log_id, start + i - 1, at,
            substring(joined FROM offsets[i]::int + 1 FOR offsets[i + 1]::int - offsets[i]::int)
        FROM generate_series(1, n) AS s (i);
    PERFORM pg_notify('{0}', log_name);
    RETURN start;
END $f$;

-- How many entries were removed, at most `most`.
CREATE FUNCTION "{0}".trim(
    log_name text, max_events float8, max_bytes float8, max_age float8, keep_after bigint, most bigint
) RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE
    l "{0}".logs; at float8 := extract(epoch FROM clock_timestamp()); keep bigint; n bigint; size bigint;
BEGIN
    SELECT * INTO l FROM "{0}".logs WHERE name = log_name;
    IF NOT FOUND OR NOT pg_try_advisory_xact_lock(hashtextextended('codomyrmex {0} ' || log_name, 0)) THEN
        RETURN 0;
    END IF;
    DELETE FROM "{0}".producers WHERE log = l.id AND used < at - 2 * 86400;
    SELECT * INTO l FROM "{0}".logs WHERE name = log_name;
    SELECT pos INTO keep FROM (
        SELECT pos, time,
            sum(octet_length(value)) OVER (ORDER BY pos ROWS UNBOUNDED PRECEDING) - octet_length(value)
                AS before
        FROM "{0}".entries WHERE log = l.id AND pos BETWEEN l.first AND l.first + most
    ) oldest
        WHERE pos > l.last - max_events AND l.bytes - before <= max_bytes AND time >= at - max_age
        ORDER BY pos LIMIT 1;
    keep := least(coalesce(keep, l.last + 1), keep_after + 1, l.first + most);
    IF keep <= l.first THEN RETURN 0; END IF;
    WITH removed AS (
        DELETE FROM "{0}".entries WHERE log = l.id AND pos < keep RETURNING octet_length(value) AS size
    ) SELECT count(*), coalesce(sum(removed.size), 0) INTO n, size FROM removed;
    UPDATE "{0}".logs SET first = keep, bytes = bytes - size WHERE name = log_name;
    RETURN n;
END $f$;

-- Whether the lease is held, and the values were saved.
CREATE FUNCTION "{0}".save(
    lease_name text, lease_owner text, lease_token bigint, gone text[], names text[], joined bytea,
    offsets oid[]
) RETURNS boolean LANGUAGE plpgsql AS $f$
BEGIN
    PERFORM FROM "{0}".leases
        WHERE name = lease_name AND owner = lease_owner AND token = lease_token AND expires > 0 FOR UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM "{0}".state WHERE name = ANY (gone);
    INSERT INTO "{0}".state AS s (name, value)
        SELECT names[i], substring(joined FROM offsets[i]::int + 1 FOR offsets[i + 1]::int - offsets[i]::int)
        FROM generate_series(1, cardinality(names)) AS s (i) ORDER BY 1
        ON CONFLICT (name) DO UPDATE SET value = excluded.value;
    RETURN true;
END $f$;
END $do$;
"""

EXISTS = "SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta'"
VERSIONS = 'SELECT version, compatible_since FROM "{0}".meta'
LOSSES = """
SELECT format('%s is off, so a crash of %s; turn it on', name, CASE name
    WHEN 'synchronous_commit' THEN 'the server loses the last fraction of a second'
    ELSE 'its host can destroy the database' END)
FROM pg_settings WHERE setting = 'off' AND name IN ('fsync', 'full_page_writes', 'synchronous_commit')
UNION ALL SELECT format('the table %s is UNLOGGED, so a crash of the server empties it; SET LOGGED', relname)
FROM pg_class WHERE relnamespace = $1::text::regnamespace AND relkind = 'r' AND relpersistence = 'u'
ORDER BY 1
"""
"""What the server will not preserve, as sentences."""

# If the connection was given another process id than this, a proxy is between, and settings of the session
# would become those of others. The timeout ends statements whose client has given up.
CHECK = """
SELECT pg_backend_pid() = $1 AS direct, pg_is_in_recovery() AS replica,
    current_setting('server_version_num')::int / 10000 AS version, current_setting('server_version') AS shown,
    current_setting('transaction_isolation') AS isolation,
    CASE WHEN pg_backend_pid() = $1 THEN set_config('statement_timeout', $2, false) END,
    CASE WHEN pg_backend_pid() = $1 THEN
        set_config('default_transaction_isolation', 'read committed', false)
    END
"""

# All characters of names come before `~`, so `name < prefix || '~'` ends the names with a prefix.
APPEND = 'SELECT "{0}".append($1, $2, $3, $4, $5)'
TRIM = 'SELECT "{0}".trim($1, $2, $3, $4, $5, $6)'
VACUUM = 'VACUUM (SKIP_LOCKED, TRUNCATE false) "{0}".entries'
SAVE = 'SELECT "{0}".save($1, $2, $3, $4, $5, $6, $7)'
LASTS = 'SELECT name, last FROM "{0}".logs WHERE name = ANY($1)'
LOGS = 'SELECT name FROM "{0}".logs ORDER BY name'
BOUNDS = 'SELECT epoch, first, last, bytes FROM "{0}".logs WHERE name = $1'
CREATE_LOG = """
INSERT INTO "{0}".logs (name, epoch) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING epoch, first, last, bytes
"""
RENEW_EPOCH = """
UPDATE "{0}".logs SET epoch = CASE WHEN epoch = $2 THEN $3 ELSE epoch END WHERE name = $1
RETURNING epoch, first, last, bytes
"""
READ = """
SELECT pos, time, value FROM (
    SELECT pos, time, value, sum(octet_length(value)) OVER (ORDER BY pos ROWS UNBOUNDED PRECEDING) AS size,
        row_number() OVER (ORDER BY pos ROWS UNBOUNDED PRECEDING) AS number
    FROM (
        SELECT pos, time, value FROM "{0}".entries WHERE log = (SELECT id FROM "{0}".logs WHERE name = $1)
            AND pos > greatest($2, (SELECT first - 1 FROM "{0}".logs WHERE name = $1)) ORDER BY pos LIMIT $3
    ) AS next
) AS sized WHERE size <= $4 OR number = 1 ORDER BY pos
"""
ACQUIRE = """
INSERT INTO "{0}".leases AS l (name, owner, token, expires)
VALUES ($1, $2, 1, extract(epoch FROM clock_timestamp()) + $3)
ON CONFLICT (name) DO UPDATE SET owner = $2, expires = extract(epoch FROM clock_timestamp()) + $3,
    token = l.token + CASE WHEN l.owner = $2 AND l.expires > extract(epoch FROM clock_timestamp())
        THEN 0 ELSE 1 END
WHERE l.owner = $2 OR l.expires <= extract(epoch FROM clock_timestamp())
RETURNING token
"""
RENEW = """
UPDATE "{0}".leases SET expires = extract(epoch FROM clock_timestamp()) + $4
WHERE name = $1 AND owner = $2 AND token = $3 AND expires > 0 RETURNING token
"""
RELEASE = 'UPDATE "{0}".leases SET expires = 0 WHERE name = $1 AND owner = $2 AND token = $3'
LEASES = """
SELECT name, owner, token FROM "{0}".leases
WHERE name >= $1 AND name < $1 || '~' AND expires > extract(epoch FROM clock_timestamp()) ORDER BY name
"""
LOAD = """SELECT name, value FROM "{0}".state WHERE name >= $1 AND name < $1 || '~'"""
