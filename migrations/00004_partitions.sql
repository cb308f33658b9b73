-- Partitions: made ahead of time and retired by age, by functions of the owner, since the runtime role has no DDL.
--
-- CREATE .. PARTITION OF wants an exclusive lock on the parent and queues every insert behind any open transaction.
-- CREATE LIKE and ATTACH wants one on the (empty) default partition only. Callers set lock_timeout and try again.

-- +goose Up
-- The partitioned tables: one row each. `class` says which retention rules it.
CREATE TABLE mini_asynq.partitioned (
    parent text     PRIMARY KEY,
    class  text     NOT NULL CHECK (class IN ('events', 'done', 'dead')),
    span   interval NOT NULL
);
INSERT INTO mini_asynq.partitioned (parent, class, span) VALUES
    ('outbox',    'events', '1 day'),
    ('jobs_done', 'done',   '1 day'),
    ('jobs_dead', 'dead',   '7 days');

-- +goose StatementBegin
-- partitions lists what is there: the bounds are in the names, the day on which a partition begins (UTC).
CREATE FUNCTION mini_asynq.partitions(OUT parent text, OUT partition text, OUT class text,
                                      OUT begins timestamptz, OUT ends timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
    SELECT p.parent, c.relname::text, p.class,
           to_date(right(c.relname, 8), 'YYYYMMDD')::timestamptz,
           to_date(right(c.relname, 8), 'YYYYMMDD')::timestamptz + p.span
      FROM mini_asynq.partitioned p
      JOIN pg_inherits i ON i.inhparent = ('mini_asynq.' || p.parent)::regclass
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE c.relname ~ '_p[0-9]{8}$'
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- missing_partitions lists what is not there yet of the time from now to now + ahead.
CREATE FUNCTION mini_asynq.missing_partitions(ahead interval, OUT parent text, OUT begins timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
    SELECT p.parent, b.begins
      FROM mini_asynq.partitioned p,
           LATERAL generate_series(date_bin(p.span, clock_timestamp(), '2024-01-01 00:00:00+00'),
                                   clock_timestamp() + ahead, p.span) AS b(begins)
     WHERE NOT EXISTS (SELECT FROM mini_asynq.partitions() x WHERE x.parent = p.parent AND x.begins = b.begins)
     ORDER BY b.begins, p.parent
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- create_partition makes one that missing_partitions named. Two callers at once: the lock makes the second wait and
-- find it done.
CREATE FUNCTION mini_asynq.create_partition(parent_name text, begins timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
DECLARE
    rule mini_asynq.partitioned;
    part text := parent_name || to_char(begins, '"_p"YYYYMMDD');
BEGIN
    SELECT * INTO STRICT rule FROM mini_asynq.partitioned WHERE parent = parent_name FOR UPDATE;
    IF EXISTS (SELECT FROM mini_asynq.partitions() x WHERE x.partition = part) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS mini_asynq.%I (LIKE mini_asynq.%I INCLUDING ALL)', part, parent_name);
    -- LIKE does not copy these (see 00002).
    EXECUTE format('ALTER TABLE mini_asynq.%I REPLICA IDENTITY FULL', part);
    IF parent_name = 'outbox' THEN
        EXECUTE format('ALTER TABLE mini_asynq.%I SET (toast_tuple_target = 4080)', part);
    END IF;
    EXECUTE format('ALTER TABLE mini_asynq.%I ATTACH PARTITION mini_asynq.%I FOR VALUES FROM (%L) TO (%L)',
                   parent_name, part, begins, begins + rule.span);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- empty_partition is the first half of retiring: it commits fast and frees the disk. Returns the rows that were there, as
-- far as statistics know: counting hundreds of millions would hold the lock for minutes.
-- A partition of the outbox is emptied only if all in it is visible in `seen`, the snapshot before the first tick that
-- stays; else -1. That is looked up under the lock, so that no late commit falls between.
CREATE FUNCTION mini_asynq.empty_partition(part text, seen pg_snapshot DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
    rule record;
    needed boolean;
BEGIN
    SELECT * INTO STRICT rule FROM mini_asynq.partitions() x WHERE x.partition = part;
    EXECUTE format('LOCK TABLE mini_asynq.%I IN ACCESS EXCLUSIVE MODE', part);
    IF seen IS NOT NULL THEN
        -- Whatever is older than the oldest transaction of the snapshot is visible in it: the index outbox_xid leads to
        -- the rest.
        EXECUTE format('SELECT EXISTS (SELECT FROM mini_asynq.%I WHERE xid >= pg_snapshot_xmin($1)
                                        AND NOT pg_visible_in_snapshot(xid, $1))', part) INTO needed USING seen;
        IF needed THEN
            RETURN -1;
        END IF;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM mini_asynq.%I)', part) INTO needed;
    IF needed THEN
        SELECT greatest(reltuples, 1)::bigint INTO n FROM pg_class WHERE oid = ('mini_asynq.' || part)::regclass;
    ELSE
        n := 0;
    END IF;
    EXECUTE format('TRUNCATE mini_asynq.%I', part);
    IF n > 0 THEN
        PERFORM mini_asynq.note(125, NULL, NULL, NULL, NULL, NULL, jsonb_build_object(
            'table', rule.parent, 'day', to_char(rule.begins AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 'count', n));
        PERFORM mini_asynq.wake();
    END IF;
    RETURN n;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- drop_partition is the second half: the empty shell. It needs an exclusive lock on the parent, so it comes under a
-- short lock_timeout and is tried again until it succeeds; a shell in the way costs nothing.
CREATE FUNCTION mini_asynq.drop_partition(part text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    full_one boolean;
BEGIN
    PERFORM FROM mini_asynq.partitions() x WHERE x.partition = part;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM mini_asynq.%I)', part) INTO full_one;
    IF full_one THEN
        RAISE EXCEPTION 'partition % is not empty', part;
    END IF;
    EXECUTE format('DROP TABLE mini_asynq.%I', part);
END
$$;
-- +goose StatementEnd

-- The first ones, so that a fresh database never writes into a default partition.
SELECT mini_asynq.create_partition(parent, begins) FROM mini_asynq.missing_partitions(interval '7 days');

-- +goose Down
DROP FUNCTION mini_asynq.drop_partition(text), mini_asynq.empty_partition(text, pg_snapshot),
    mini_asynq.create_partition(text, timestamptz), mini_asynq.missing_partitions(interval), mini_asynq.partitions();
DROP TABLE mini_asynq.partitioned;
