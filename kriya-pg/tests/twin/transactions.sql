-- Rollbacks, savepoints, cursors, constraints: the same on heap and on lsm_s3.
CREATE TABLE t (id int, v text);
BEGIN;
INSERT INTO t VALUES (1, 'a');
SELECT * FROM t;
ROLLBACK;
SELECT * FROM t;
BEGIN;
INSERT INTO t VALUES (1, 'a');
SAVEPOINT one;
INSERT INTO t VALUES (2, 'b');
UPDATE t SET v = 'changed' WHERE id = 1;
SAVEPOINT two;
DELETE FROM t;
SELECT count(*) FROM t;
ROLLBACK TO two;
SELECT * FROM t ORDER BY id;
ROLLBACK TO one;
SELECT * FROM t ORDER BY id;
UPDATE t SET v = 'again';
RELEASE one;
INSERT INTO t VALUES (3, 'c');
COMMIT;
SELECT * FROM t ORDER BY id;
-- A rolled back change of a row leaves it free to be changed again.
BEGIN;
SAVEPOINT s;
DELETE FROM t WHERE id = 1;
ROLLBACK TO s;
UPDATE t SET v = 'survived' WHERE id = 1;
COMMIT;
SELECT * FROM t ORDER BY id;
-- Exceptions in plpgsql are subtransactions.
DO $$
BEGIN
    FOR i IN 1..5 LOOP
        BEGIN
            INSERT INTO t VALUES (10 + i, 'loop');
            IF i % 2 = 0 THEN RAISE EXCEPTION 'even'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$;
SELECT * FROM t ORDER BY id;
-- System columns, of new rows too.
BEGIN;
INSERT INTO t VALUES (30, 'new') RETURNING xmin::text::bigint = txid_current() % (2::bigint ^ 32)::bigint, xmax, cmin;
UPDATE t SET v = 'newer' WHERE id = 30 RETURNING xmin::text::bigint = txid_current() % (2::bigint ^ 32)::bigint, cmin;
SELECT xmin::text::bigint = txid_current() % (2::bigint ^ 32)::bigint, xmax, tableoid::regclass FROM t WHERE id = 30;
ROLLBACK;
-- Cursors see their own moment, both ways.
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM t;
FETCH 2 FROM c;
DELETE FROM t WHERE id = 11;
FETCH ALL FROM c;
FETCH BACKWARD 2 FROM c;
FETCH FIRST FROM c;
FETCH LAST FROM c;
FETCH PRIOR FROM c;
ROLLBACK;
-- WHERE CURRENT OF.
BEGIN;
DECLARE d CURSOR FOR SELECT id FROM t WHERE id > 10;
FETCH 1 FROM d;
UPDATE t SET v = 'current' WHERE CURRENT OF d;
COMMIT;
SELECT * FROM t ORDER BY id;
-- Triggers see old and new rows.
CREATE TABLE log (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log VALUES (TG_OP || ' ' || coalesce(OLD.v, '-') || ' ' || coalesce(NEW.v, '-'));
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO t VALUES (20, 'x'), (21, 'y');
UPDATE t SET v = v || '!' WHERE id >= 20;
DELETE FROM t WHERE id >= 20;
SELECT * FROM log;
DROP TRIGGER watch ON t;
-- Check constraints and NOT NULL, generated columns, defaults, identity.
CREATE TABLE strict (
    id int GENERATED ALWAYS AS IDENTITY, n int NOT NULL CHECK (n > 0), twice int GENERATED ALWAYS AS (n * 2) STORED
);
INSERT INTO strict (n) VALUES (1), (2);
INSERT INTO strict (n) VALUES (0);
INSERT INTO strict (n) VALUES (NULL);
INSERT INTO strict (n) VALUES (3);
SELECT * FROM strict ORDER BY id;
DROP TABLE strict, log, t;
DROP FUNCTION note;
