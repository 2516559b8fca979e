-- btree, hash and UNIQUE indexes: the same on heap and on lsm_s3.
CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, n int);
INSERT INTO t SELECT g, 'name ' || g, g % 7 FROM generate_series(1, 1000) g;
INSERT INTO t VALUES (5, 'other', 1);
INSERT INTO t VALUES (2000, 'name 5', 1);
CREATE INDEX by_n ON t (n);
CREATE INDEX by_expression ON t ((n * 2)) WHERE id > 500;
CREATE INDEX by_hash ON t USING hash (name);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS off) SELECT * FROM t WHERE id = 42;
SELECT * FROM t WHERE id = 42;
SELECT count(*) FROM t WHERE n = 3;
SELECT id FROM t WHERE name = 'name 77';
SELECT id FROM t WHERE id BETWEEN 10 AND 15 ORDER BY id DESC;
SELECT count(*) FROM t WHERE n * 2 = 6 AND id > 500;
-- Entries of old versions lead nowhere.
UPDATE t SET n = 100 WHERE id = 42;
SELECT * FROM t WHERE id = 42;
SELECT id FROM t WHERE n = 100;
SELECT count(*) FROM t WHERE n = 0;
DELETE FROM t WHERE id = 42;
SELECT * FROM t WHERE id = 42;
INSERT INTO t VALUES (42, 'name 42', 1);
SELECT * FROM t WHERE id = 42;
UPDATE t SET id = id + 10000 WHERE id <= 3;
SELECT id FROM t WHERE id > 10000 ORDER BY id;
-- A unique violation within a statement, and after a rollback.
INSERT INTO t VALUES (3001, 'same', 1), (3002, 'same', 1);
BEGIN;
INSERT INTO t VALUES (3001, 'same', 1);
ROLLBACK;
INSERT INTO t VALUES (3001, 'same', 1);
SELECT * FROM t WHERE name = 'same';
BEGIN;
DELETE FROM t WHERE name = 'same';
INSERT INTO t VALUES (3003, 'same', 2);
COMMIT;
SELECT * FROM t WHERE name = 'same';
-- Deferred unique constraint.
CREATE TABLE d (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO d VALUES (1), (2), (3);
UPDATE d SET id = id + 1;
SELECT * FROM d ORDER BY id;
BEGIN;
INSERT INTO d VALUES (4);
COMMIT;
-- Merge joins and nested loops over indexes.
SET enable_hashjoin = off;
SELECT count(*) FROM t a JOIN t b ON a.id = b.id;
SELECT a.id, b.name FROM t a JOIN t b ON b.id = a.id + 1 WHERE a.n = 6 ORDER BY a.id LIMIT 3;
REINDEX TABLE t;
SELECT count(*) FROM t WHERE n = 3;
ANALYZE t;
VACUUM t;
SELECT count(*) FROM t WHERE n = 3;
DROP TABLE t, d;
