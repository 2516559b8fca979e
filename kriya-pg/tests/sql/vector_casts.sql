-- LsmVector and arrays.
\pset format unaligned
\pset tuples_only on

SELECT ARRAY[1,2,3]::lsmvector;
SELECT ARRAY[1.0,2.5,3.0]::lsmvector;
SELECT ARRAY[1,2,3]::float4[]::lsmvector;
SELECT ARRAY[1,2.5,3]::float8[]::lsmvector;
SELECT '{1,2,3}'::numeric[]::lsmvector;
SELECT '{16777217,-2147483648}'::int[]::lsmvector;
SELECT ARRAY[0.1]::float8[]::lsmvector;
-- the element order counts, not where the subscripts begin
SELECT '[5:6]={1,2}'::int[]::lsmvector;

SELECT ARRAY[1,2,3]::lsmvector(3);
SELECT ARRAY[1,2,3]::lsmvector(2);
SELECT '[1,2,3]'::lsmvector::lsmvector(2);
SELECT '{NULL}'::real[]::lsmvector;
SELECT '{1,NULL,3}'::int[]::lsmvector;
SELECT '{NaN}'::real[]::lsmvector;
SELECT '{Infinity}'::real[]::lsmvector;
SELECT '{-Infinity}'::float8[]::lsmvector;
SELECT '{1e300}'::float8[]::lsmvector;
SELECT '{NaN}'::numeric[]::lsmvector;
SELECT '{1e39}'::numeric[]::lsmvector;
SELECT '{}'::real[]::lsmvector;
SELECT '{{1}}'::real[]::lsmvector;
SELECT array_agg(n)::lsmvector FROM generate_series(1, 16001) n;

SELECT '[1,2,3]'::lsmvector::real[];
SELECT '[1,2,3]'::lsmvector::real[] IS NOT DISTINCT FROM ARRAY[1,2,3]::real[];
-- implicit: what takes real[] takes a vector
CREATE FUNCTION third(real[]) RETURNS real LANGUAGE sql IMMUTABLE RETURN $1[3];
SELECT third('[4,5,6]'::lsmvector);
DROP FUNCTION third;

-- assignment: arrays go into a column as they are
CREATE TABLE casts (v lsmvector(2));
INSERT INTO casts VALUES (ARRAY[1,2]);
INSERT INTO casts VALUES (ARRAY[0.5,1.5]);
INSERT INTO casts VALUES (ARRAY[7,8]::real[]);
INSERT INTO casts VALUES (ARRAY[9,10]::float8[]);
INSERT INTO casts VALUES (ARRAY[1,2,3]);
INSERT INTO casts VALUES ('[1,2,3]');
INSERT INTO casts SELECT '[1,2,3]'::lsmvector;
UPDATE casts SET v = '[1]' WHERE v = '[1,2]';
SELECT v FROM casts;
DROP TABLE casts;
