-- Bytes that are not a vector's are refused before they are read. (Little-endian machines; only a superuser can make
-- such a cast.)
\pset format unaligned
\pset tuples_only on
\set VERBOSITY terse

CREATE CAST (bytea AS lsmvector) WITHOUT FUNCTION;
CREATE CAST (lsmvector AS bytea) WITHOUT FUNCTION;

-- dimensions, 0, elements: 1.0 is 0x3f800000
SELECT '[1,-2]'::lsmvector::bytea;
SELECT '\x020000000000803f000000c0'::bytea::lsmvector;

SELECT ''::bytea::lsmvector;
SELECT '\x01'::bytea::lsmvector;
SELECT '\x00000000'::bytea::lsmvector;
SELECT '\xffff0000'::bytea::lsmvector;
SELECT '\x01000000'::bytea::lsmvector;
SELECT lsm_vector_dims('\x020000000000803f'::bytea::lsmvector);
SELECT lsm_vector_send('\x010000000000803f00'::bytea::lsmvector);
SELECT '[1]'::lsmvector <-> '\xff7f00000000803f'::bytea::lsmvector;
SELECT '[1]'::lsmvector = ''::bytea::lsmvector;
\set VERBOSITY sqlstate
SELECT ''::bytea::lsmvector;
\set VERBOSITY terse

DROP CAST (bytea AS lsmvector);
DROP CAST (lsmvector AS bytea);

-- A column may keep vectors compressed; they read the same.
CREATE TABLE compressed (v lsmvector);
ALTER TABLE compressed ALTER COLUMN v SET STORAGE main;
INSERT INTO compressed VALUES (array_fill(0.25::real, ARRAY[4000]));
SELECT pg_column_size(v) < 4000 AS is_compressed, lsm_vector_dims(v), lsm_vector_norm(v)::numeric(10, 4), v <-> v FROM compressed;
DROP TABLE compressed;
