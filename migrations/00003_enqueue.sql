-- The SQL door: mini_asynq.enqueue(queue, payload, kind, options), for clients in any language, in their own transaction.

-- +goose Up
-- +goose StatementBegin
-- refuse raises the error of the SQL door: SQLSTATE MA422, the field in DETAIL.
CREATE FUNCTION mini_asynq.refuse(field text, message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '%: %', field, message USING ERRCODE = 'MA422', DETAIL = field;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- parse_duration reads Go's durations plus d: '250ms', '1h30m', '7d'. Null for anything else, negative ones included.
CREATE FUNCTION mini_asynq.parse_duration(txt text) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN txt = '0' THEN interval '0'
                WHEN txt ~ '^([0-9]{1,9}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h|d)){1,9}$' THEN
        (SELECT make_interval(secs => sum(part[1]::numeric * CASE part[2]
                    WHEN 'ns' THEN 1e-9 WHEN 'us' THEN 1e-6 WHEN 'µs' THEN 1e-6 WHEN 'ms' THEN 1e-3
                    WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 END)::double precision)
           FROM regexp_matches(txt, '([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)', 'g') AS part)
           END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- setting reads what the server published, else the built-in default.
CREATE FUNCTION mini_asynq.setting(setting_name text, fallback jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT value FROM mini_asynq.settings WHERE name = setting_name), fallback)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- check_payload raises what the other doors refuse too: size as PostgreSQL returns it, depth, numbers that blow up.
CREATE FUNCTION mini_asynq.check_payload(payload jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    written text;
    max_bytes bigint := (mini_asynq.setting('max_payload_bytes', '262144') #>> '{}')::bigint;
BEGIN
    -- Before it is written out: a number of a few bytes may be written with 131,072 digits.
    IF pg_column_size(payload) > 2 * max_bytes THEN
        PERFORM mini_asynq.refuse('payload', format('too large, the limit is %s bytes', max_bytes));
    END IF;
    IF EXISTS (SELECT FROM jsonb_path_query(payload, 'strict $.** ? (@.type() == "number")') AS number
                WHERE pg_column_size(number) <= 24 AND abs(number::numeric) >= 1e401::numeric) THEN
        PERFORM mini_asynq.refuse('payload', 'a number needs more than 401 digits');
    END IF;
    written := payload::text;
    -- 1e131071 takes a few bytes in a request and 128 KiB when it is read: look only when a long run of digits is there.
    IF written ~ '[0-9.]{200}[0-9.]{202}' AND EXISTS (
        SELECT FROM jsonb_path_query(payload, 'strict $.** ? (@.type() == "number")') AS number
         WHERE octet_length(ltrim(number::text, '-')) > 402) THEN
        PERFORM mini_asynq.refuse('payload', 'a number needs more than 401 digits');
    END IF;
    IF octet_length(written) > max_bytes THEN
        PERFORM mini_asynq.refuse('payload', format('%s bytes as stored, the limit is %s', octet_length(written), max_bytes));
    END IF;
    IF payload @? 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")' THEN
        PERFORM mini_asynq.refuse('payload', 'nested deeper than 64 levels');
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- enqueue stores a job in the caller's transaction and returns its id. `options` takes the other fields of the REST
-- body, under the same names and with the same checks: priority, max_retries, run_at or delay, timeout, tags, metadata,
-- idempotency_key, traceparent. Errors: MA422 (a value is refused; the field is in DETAIL), MA409 (the idempotency key
-- is in flight elsewhere: try again).
-- Runs as its owner: the caller needs EXECUTE on this function and nothing else.
CREATE FUNCTION mini_asynq.enqueue(queue text, payload jsonb, kind text DEFAULT NULL, options jsonb DEFAULT '{}')
    RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name_pattern CONSTANT text := '^[A-Za-z0-9_.:-]{1,255}$';
    job_id uuid := mini_asynq.uuid_v7();
    job_kind text := coalesce(kind, queue);
    job_payload jsonb := coalesce(payload, 'null');
    opt jsonb := coalesce(options, '{}');
    field text;
    priority text;
    retries bigint;
    due timestamptz;
    pause interval;
    job_timeout interval;
    job_tags text[];
    idem text;
    hash bytea;
    stored record;
    stamp timestamptz := clock_timestamp();
BEGIN
    IF queue IS NULL OR queue !~ name_pattern OR queue IN ('.', '..') THEN
        PERFORM mini_asynq.refuse('queue', '1 to 255 letters, digits and _ . : -');
    END IF;
    IF job_kind !~ name_pattern OR job_kind IN ('.', '..') THEN
        PERFORM mini_asynq.refuse('kind', '1 to 255 letters, digits and _ . : -');
    END IF;
    IF jsonb_typeof(opt) <> 'object' THEN
        PERFORM mini_asynq.refuse('options', 'must be an object');
    END IF;
    SELECT k INTO field FROM jsonb_object_keys(opt) AS k
     WHERE k NOT IN ('priority', 'max_retries', 'run_at', 'delay', 'timeout', 'tags', 'metadata', 'idempotency_key',
                     'traceparent') LIMIT 1;
    IF FOUND THEN
        PERFORM mini_asynq.refuse(left(field, 64), 'unknown option');
    END IF;
    -- null means "not given", as in a REST body.
    opt := (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each(opt) e WHERE e.value <> 'null');
    PERFORM mini_asynq.check_payload(job_payload);

    SELECT e.key INTO field FROM jsonb_each(opt) e
     WHERE jsonb_typeof(e.value) <> CASE e.key WHEN 'max_retries' THEN 'number' WHEN 'tags' THEN 'array'
                                               WHEN 'metadata' THEN 'object' ELSE 'string' END LIMIT 1;
    IF FOUND THEN
        PERFORM mini_asynq.refuse(field, 'wrong type');
    END IF;

    priority := coalesce(opt->>'priority', 'normal');
    IF priority NOT IN ('high', 'normal', 'low') THEN
        PERFORM mini_asynq.refuse('priority', 'high, normal or low');
    END IF;

    IF opt ? 'max_retries' AND opt->>'max_retries' !~ '^[0-9]{1,4}$' THEN
        PERFORM mini_asynq.refuse('max_retries', '0 to 1000');
    END IF;
    retries := coalesce(opt->>'max_retries', mini_asynq.setting('max_retries', '3') #>> '{}')::bigint;
    IF retries > 1000 THEN
        PERFORM mini_asynq.refuse('max_retries', '0 to 1000');
    END IF;

    IF opt ? 'run_at' AND opt ? 'delay' THEN
        PERFORM mini_asynq.refuse('delay', 'run_at or delay, not both');
    ELSIF opt ? 'run_at' THEN
        IF opt->>'run_at' !~ '^\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$' THEN
            PERFORM mini_asynq.refuse('run_at', 'RFC 3339 with a time zone');
        END IF;
        BEGIN
            due := (opt->>'run_at')::timestamptz;
        EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format OR invalid_time_zone_displacement_value THEN
            PERFORM mini_asynq.refuse('run_at', 'no such time');
        END;
    ELSIF opt ? 'delay' THEN
        pause := mini_asynq.parse_duration(opt->>'delay');
        IF pause IS NULL THEN
            PERFORM mini_asynq.refuse('delay', 'a duration such as 90s, 1h30m or 7d');
        END IF;
        IF pause > interval '87672 hours' THEN
            PERFORM mini_asynq.refuse('delay', 'at most 10 years ahead');
        END IF;
        due := stamp + pause;
    END IF;
    IF due > stamp + interval '87672 hours' THEN -- as jobs_run_at_bound
        PERFORM mini_asynq.refuse(CASE WHEN opt ? 'delay' THEN 'delay' ELSE 'run_at' END, 'at most 10 years ahead');
    END IF;

    IF opt ? 'timeout' THEN
        job_timeout := mini_asynq.parse_duration(opt->>'timeout');
        IF job_timeout IS NULL OR job_timeout NOT BETWEEN interval '1 s' AND interval '24 h' THEN
            PERFORM mini_asynq.refuse('timeout', '1s to 24h');
        END IF;
    END IF;

    IF opt ? 'tags' THEN
        IF jsonb_array_length(opt->'tags') > 20 OR EXISTS (
            SELECT FROM jsonb_array_elements(opt->'tags') t
             WHERE jsonb_typeof(t) <> 'string' OR char_length(t #>> '{}') NOT BETWEEN 1 AND 64) THEN
            PERFORM mini_asynq.refuse('tags', 'at most 20 strings of 1 to 64 characters');
        END IF;
        job_tags := ARRAY(SELECT jsonb_array_elements_text(opt->'tags'));
    END IF;

    IF opt ? 'metadata' AND (
        octet_length((opt->'metadata')::text) > 8192
        OR (SELECT count(*) FROM jsonb_object_keys(opt->'metadata')) > 50
        OR EXISTS (SELECT FROM jsonb_each(opt->'metadata') m WHERE jsonb_typeof(m.value) <> 'string')) THEN
        PERFORM mini_asynq.refuse('metadata', 'a flat object of at most 50 strings and 8 KiB');
    END IF;

    IF opt ? 'traceparent' AND opt->>'traceparent' !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        PERFORM mini_asynq.refuse('traceparent', 'a W3C traceparent');
    END IF;

    idem := opt->>'idempotency_key';
    IF idem IS NOT NULL THEN
        IF char_length(idem) NOT BETWEEN 1 AND 255 OR idem !~ '^[[:print:]]+$' THEN
            PERFORM mini_asynq.refuse('idempotency_key', '1 to 255 printable characters');
        END IF;
        hash := mini_asynq.request_hash(opt || jsonb_build_object('queue', queue, 'payload', job_payload)
            || CASE WHEN kind IS NULL THEN '{}' ELSE jsonb_build_object('kind', kind) END);
        -- Waits for a transaction that holds the same key; lock_timeout of the session bounds that.
        INSERT INTO mini_asynq.idempotency_keys AS k (key, request_hash, job_ids, expires_at)
        VALUES (idem, hash, ARRAY[job_id],
                stamp + make_interval(secs => (mini_asynq.setting('idempotency_ttl_seconds', '86400') #>> '{}')::float8))
        ON CONFLICT (key) DO UPDATE
           SET request_hash = EXCLUDED.request_hash, job_ids = EXCLUDED.job_ids, answer = NULL,
               created_at = clock_timestamp(), expires_at = EXCLUDED.expires_at
         WHERE k.expires_at <= clock_timestamp();
        IF NOT FOUND THEN
            SELECT k.request_hash, k.job_ids INTO stored FROM mini_asynq.idempotency_keys k WHERE k.key = idem;
            IF NOT FOUND THEN
                -- A snapshot from before the other transaction's commit (repeatable read): only a new one can tell.
                RAISE EXCEPTION 'idempotency_key: in flight elsewhere' USING ERRCODE = 'MA409';
            END IF;
            IF stored.request_hash <> hash THEN
                PERFORM mini_asynq.refuse('idempotency_key', 'already used for another request');
            END IF;
            RETURN stored.job_ids[1];
        END IF;
    END IF;

    INSERT INTO mini_asynq.jobs (id, queue, kind, payload, status, priority, max_retries, attempt_limit, run_at,
                                 created_at, updated_at, idempotency_key, timeout, tags, metadata, source, traceparent)
    VALUES (job_id, queue, job_kind, job_payload,
            CASE WHEN due > stamp THEN 'scheduled' ELSE 'pending' END::mini_asynq.job_status,
            priority::mini_asynq.job_priority, retries, retries + 1, greatest(due, stamp),
            stamp, stamp, idem, job_timeout, job_tags, opt->'metadata', 'sql', opt->>'traceparent');
    RETURN job_id;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION mini_asynq.enqueue(text, jsonb, text, jsonb), mini_asynq.check_payload(jsonb),
    mini_asynq.setting(text, jsonb), mini_asynq.parse_duration(text), mini_asynq.refuse(text, text);
