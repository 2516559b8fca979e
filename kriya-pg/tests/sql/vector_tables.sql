-- LsmVector in ordinary tables: stored short, in line and out of line, sorted, unique.
\pset format unaligned
\pset tuples_only on

CREATE TABLE items (id int PRIMARY KEY, v lsmvector(3));
INSERT INTO items VALUES (1, '[1,1,1]'), (2, '[2,2,2]'), (3, '[1,1,2]'), (4, NULL), (5, '[1,1,1]');
SELECT id, v <-> '[1,1,1]' AS distance FROM items ORDER BY v <-> '[1,1,1]', id;
SELECT id, v FROM items ORDER BY v, id;
SELECT DISTINCT v FROM items ORDER BY v NULLS FIRST;
SELECT v, count(*) FROM items GROUP BY v ORDER BY v;
SELECT id FROM items WHERE v > '[1,1,1]' ORDER BY id;

-- btree
CREATE INDEX items_v ON items (v);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM items WHERE v = '[1,1,2]';
SELECT id FROM items WHERE v = '[1,1,2]';
SELECT id FROM items WHERE v < '[1,1,2]' ORDER BY id;
RESET enable_seqscan;
CREATE UNIQUE INDEX items_unique ON items (v);
DELETE FROM items WHERE id = 5;
CREATE UNIQUE INDEX items_unique ON items (v);
INSERT INTO items VALUES (6, '[2,2,2]');

-- short, long and out of line
CREATE TABLE wide (id int, v lsmvector);
INSERT INTO wide SELECT n, (SELECT array_agg(n + i) FROM generate_series(1, n) i)::lsmvector
    FROM unnest(ARRAY[1, 2, 29, 30, 31, 384, 1000, 16000]) n;
SELECT id, lsm_vector_dims(v), pg_column_size(v), v <-> v AS to_itself, (v::real[])[id] FROM wide ORDER BY id;
SELECT count(*) FROM wide a JOIN wide b ON a.v = b.v;
SELECT a.id, b.id FROM wide a, wide b WHERE a.id = 16000 AND b.id = 1000 AND (a.v <-> b.v) > 0;
SELECT id FROM wide ORDER BY v DESC LIMIT 1;
DROP TABLE wide;
DROP TABLE items;
