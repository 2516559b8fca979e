-- LsmVector: what it reads, what it writes, what it refuses.
\pset format unaligned
\pset tuples_only on

SELECT '[1,2,3]'::LsmVector;
SELECT '[-1,-2,-3]'::lsmvector;
SELECT '[1.,2.,3.]'::lsmvector;
SELECT '[+1,.5,1e2,1.5E-3]'::lsmvector;
SELECT ' [ 1,  2 ,    3  ] '::lsmvector;
SELECT E'\t[\n1\r,\x0B2\f]\n'::lsmvector;
-- shortest text that reads back as the same float4
SELECT '[1.23456]'::lsmvector, '[0.1,16777217,1e20,1e-20]'::lsmvector;
SELECT '[1.17549435e-38,1e-45,1e-46,-1e-46]'::lsmvector;
-- rounded once: just above the middle between two floats goes up
SELECT '[1.00000017881393432617187499]'::lsmvector, '[1.00000017881393432617187501]'::lsmvector;
-- what C calls a number
SELECT '[0x10,0x1p-1]'::lsmvector;

-- Any number is read, and written, as a real is.
WITH numbers AS (
    SELECT CASE WHEN n % 2 = 0 THEN '-' ELSE '' END || abs(hashint8extended(n, 1)) % (10::numeric ^ (1 + n % 17))::int8
        || '.' || abs(hashint8extended(n, 2)) % 1000000 || 'e' || (n % 51 - 30) AS number
    FROM generate_series(1, 20000) n
)
SELECT count(DISTINCT number) > 19000, count(*) FILTER (WHERE number::real IS DISTINCT FROM
        (('[' || number || ']')::lsmvector::real[])[1]) AS read_otherwise,
    count(*) FILTER (WHERE '[' || number::real || ']' IS DISTINCT FROM ('[' || number || ']')::lsmvector::text) AS written_otherwise
FROM numbers;

-- In the middle between two reals, and next to it.
WITH numbers AS (
    SELECT (16777217 + 2 * n)::text || fraction AS number
    FROM generate_series(0, 2000) n, (VALUES (''), ('.0'), ('.00000000001'), ('.0000001')) f(fraction)
    UNION ALL
    SELECT (16777216 + 2 * n)::text || fraction
    FROM generate_series(0, 2000) n, (VALUES ('.99999999999'), ('.9999999')) f(fraction)
)
SELECT count(*), count(*) FILTER (WHERE number::real IS DISTINCT FROM (('[' || number || ']')::lsmvector::real[])[1])
FROM numbers;

SELECT '[hello,1]'::lsmvector;
SELECT '[NaN,1]'::lsmvector;
SELECT '[nan(1),1]'::lsmvector;
SELECT '[Infinity,1]'::lsmvector;
SELECT '[-inf,1]'::lsmvector;
SELECT '[3.4e38,-3.4e38]'::lsmvector;
SELECT '[4e38,1]'::lsmvector;
SELECT '[-4e38,1]'::lsmvector;
SELECT '[1e400]'::lsmvector;
SELECT '[1,2,3'::lsmvector;
SELECT '[1,2,3]9'::lsmvector;
SELECT '1,2,3'::lsmvector;
SELECT ''::lsmvector;
SELECT '['::lsmvector;
SELECT '[ '::lsmvector;
SELECT '[,'::lsmvector;
SELECT '[]'::lsmvector;
SELECT '[ ]'::lsmvector;
SELECT '[,]'::lsmvector;
SELECT '[1,]'::lsmvector;
SELECT '[1a]'::lsmvector;
SELECT '[1e]'::lsmvector;
SELECT '[1 2]'::lsmvector;
SELECT '[1-2]'::lsmvector;
SELECT '[1,,3]'::lsmvector;
SELECT '[1, ,3]'::lsmvector;
SELECT '[--1]'::lsmvector;

-- dimensions
SELECT '[1,2,3]'::lsmvector(3);
SELECT '[1,2,3]'::lsmvector(2);
SELECT '[1,2,3]'::lsmvector(3, 2);
SELECT '[1,2,3]'::lsmvector('a');
SELECT '[1,2,3]'::lsmvector(0);
SELECT '[1,2,3]'::lsmvector(-1);
SELECT '[1,2,3]'::lsmvector(16001);
SELECT lsm_vector_dims(('[' || repeat('1,', 15999) || '1]')::lsmvector);
SELECT ('[' || repeat('1,', 16000) || '1]')::lsmvector;
SELECT unnest('{"[1,2,3]","[4,5,6]"}'::lsmvector[]);
SELECT '{"[1,2,3]"}'::lsmvector(2)[];

-- pgvector's layout: 4 bytes of header, dimensions, 0, float4 elements
SELECT pg_column_size('[1,2,3]'::lsmvector);
SELECT typlen, typbyval, typalign, typstorage FROM pg_type WHERE typname = 'lsmvector';

-- SQLSTATEs
\set VERBOSITY sqlstate
SELECT 'x'::lsmvector;
SELECT '[NaN]'::lsmvector;
SELECT '[inf]'::lsmvector;
SELECT '[4e38]'::lsmvector;
SELECT '[]'::lsmvector;
SELECT ('[' || repeat('1,', 16000) || '1]')::lsmvector;
SELECT '[1,2,3]'::lsmvector(2);
SELECT '[1,2,3]'::lsmvector(0);
SELECT '[1,2]'::lsmvector <-> '[1]';
SELECT ARRAY[1, NULL]::lsmvector;
