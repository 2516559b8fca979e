-- What a table does must not depend on its access method: this file runs on heap and on lsm_s3, and prints the same.
CREATE TABLE things (
    id int, label text, flag boolean, code uuid, at timestamptz, amount numeric, doc jsonb, tags text[], spot lsmvector
);
SET timezone = 'UTC';
INSERT INTO things VALUES
    (1, 'one', true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-01-02 03:04:05+00', 12.340, '{"a": [1, 2]}', '{x,y}', '[1,2,3]'),
    (2, NULL, false, NULL, NULL, -0.5, 'null', '{}', NULL),
    (3, '', NULL, NULL, 'infinity', 'NaN', NULL, NULL, '[0,0,0]');
SELECT * FROM things ORDER BY id;
SELECT count(*), count(label), sum(amount) FILTER (WHERE id < 3) FROM things;
-- Columns come and go without a rewrite, and with one.
ALTER TABLE things ADD COLUMN later int DEFAULT 7;
INSERT INTO things (id, later) VALUES (4, 8);
SELECT id, later FROM things ORDER BY id;
ALTER TABLE things DROP COLUMN flag;
SELECT * FROM things WHERE id = 1;
ALTER TABLE things ALTER COLUMN id TYPE bigint;
INSERT INTO things (id) VALUES (5000000000);
SELECT id, label, later FROM things ORDER BY id;
-- Long values.
INSERT INTO things (id, label) VALUES (6, repeat('long ', 100000));
SELECT id, length(label), md5(label) FROM things WHERE id = 6;
UPDATE things SET label = label || 'er' WHERE id = 6;
SELECT id, length(label), md5(label) FROM things WHERE id = 6;
-- Changes.
UPDATE things SET later = later + 1 WHERE id <= 2 RETURNING id, later;
DELETE FROM things WHERE id = 3 RETURNING id;
DELETE FROM things WHERE id = 3 RETURNING id;
SELECT id, later FROM things ORDER BY id;
UPDATE things SET later = 1;
UPDATE things SET later = later + 1;
SELECT DISTINCT later FROM things;
-- A command does not see what it does itself.
INSERT INTO things (id) SELECT id + 100 FROM things WHERE id < 100;
SELECT count(*) FROM things;
INSERT INTO things SELECT * FROM things;
SELECT count(*) FROM things;
-- TRUNCATE and its rollback.
BEGIN;
TRUNCATE things;
SELECT count(*) FROM things;
INSERT INTO things (id) VALUES (1);
SELECT id FROM things;
ROLLBACK;
SELECT count(*) FROM things;
TRUNCATE things;
SELECT count(*) FROM things;
BEGIN;
CREATE TABLE born AS SELECT g AS id FROM generate_series(1, 10) g;
TRUNCATE born;
INSERT INTO born VALUES (1), (2);
SELECT * FROM born ORDER BY id;
COMMIT;
SELECT * FROM born ORDER BY id;
DROP TABLE born;
-- COPY in and out.
COPY things (id, label, tags) FROM stdin;
1	first	{a,b}
2	\N	{}
3	tab\there	\N
\.
COPY (SELECT id, label, tags FROM things ORDER BY id) TO stdout;
DROP TABLE things;
