-- Distances, arithmetic, order.
\pset format unaligned
\pset tuples_only on

-- <-> Euclidean
SELECT '[0,0]'::lsmvector <-> '[3,4]';
SELECT lsm_l2_distance('[0,0]', '[0,1]'), lsm_l2_squared_distance('[0,0]', '[3,4]');
SELECT lsm_l2_distance('[1,2]', '[3]');
-- a sum of squares beyond float4 is infinite
SELECT lsm_l2_distance('[3e38]', '[-3e38]');
SELECT lsm_l2_distance('[1,1,1,1,1,1,1,1,1]', '[1,1,1,1,1,1,1,4,5]');

-- <#> negative inner product
SELECT '[1,2]'::lsmvector <#> '[3,4]';
SELECT lsm_inner_product('[1,2]', '[3,4]'), lsm_negative_inner_product('[1,2]', '[3,4]');
SELECT lsm_inner_product('[1,2]', '[3]');
SELECT lsm_inner_product('[3e38]', '[3e38]');

-- <=> cosine distance: nothing is near the origin
SELECT '[1,2]'::lsmvector <=> '[2,4]';
SELECT lsm_cosine_distance('[1,1]', '[1,1]'), lsm_cosine_distance('[1,0]', '[0,2]'), lsm_cosine_distance('[1,1]', '[-1,-1]');
SELECT lsm_cosine_distance('[1,2]', '[0,0]');
SELECT lsm_cosine_distance('[1,2]', '[3]');
-- never out of 0..2
SELECT lsm_cosine_distance('[1,1]', '[1.1,1.1]'), lsm_cosine_distance('[1,1]', '[-1.1,-1.1]');
SELECT lsm_cosine_distance('[3e38]', '[3e38]');

-- <+> taxicab
SELECT '[0,0]'::lsmvector <+> '[3,4]';
SELECT lsm_l1_distance('[0,0]', '[0,-1]'), lsm_l1_distance('[3e38]', '[-3e38]');
SELECT lsm_l1_distance('[1,2]', '[3]');

-- NULL in, NULL out
SELECT ('[1,2]'::lsmvector <-> NULL) IS NULL;

-- properties
SELECT lsm_vector_dims('[1,2,3]'), lsm_vector_norm('[3,4]'), lsm_vector_norm('[0,1]'), round(lsm_vector_norm('[3e37,4e37]')::numeric, -32);
SELECT lsm_l2_normalize('[3,4]'), lsm_l2_normalize('[3,0]'), lsm_l2_normalize('[0,0]'), lsm_l2_normalize('[3e38]');

-- arithmetic
SELECT '[1,2,3]'::lsmvector + '[4,5,6]', '[1,2,3]'::lsmvector - '[4,5,6]';
SELECT '[3e38]'::lsmvector + '[3e38]';
SELECT '[-3e38]'::lsmvector - '[3e38]';
SELECT '[1,2]'::lsmvector + '[3]';
SELECT '[1,2]'::lsmvector - '[3]';

-- order: elements first, then length
SELECT '[1,2,3]'::lsmvector < '[1,2,3]', '[1,2,3]'::lsmvector < '[1,2]', '[1,2]'::lsmvector < '[1,2,3]', '[9]'::lsmvector < '[1,2]';
SELECT '[1,2,3]'::lsmvector <= '[1,2,3]', '[1,2,3]'::lsmvector <= '[1,2]';
SELECT '[1,2,3]'::lsmvector = '[1,2,3]', '[1,2,3]'::lsmvector = '[1,2]', '[0]'::lsmvector = '[-0]';
SELECT '[1,2,3]'::lsmvector <> '[1,2,3]', '[1,2,3]'::lsmvector <> '[1,2]';
SELECT '[1,2,3]'::lsmvector >= '[1,2,3]', '[1,2,3]'::lsmvector >= '[1,2]';
SELECT '[1,2,3]'::lsmvector > '[1,2,3]', '[1,2,3]'::lsmvector > '[1,2]';
SELECT lsm_vector_cmp('[1,2,3]', '[1,2,3]'), lsm_vector_cmp('[1,2]', '[2,3]'), lsm_vector_cmp('[2,3]', '[1,2]'), lsm_vector_cmp('[1,2]', '[1,2,3]'), lsm_vector_cmp('[1,2,3]', '[1,2]');

-- Every distance, against the sum written in SQL over the elements.
WITH pairs AS (
    SELECT n, array_agg(((i * 37 + n * 11) % 101 - 50)::real ORDER BY i) AS a,
        array_agg(((i * 53 + n * 29) % 97 - 48)::real ORDER BY i) AS b
    FROM generate_series(1, 40) AS n, generate_series(1, n) AS i GROUP BY n
), sums AS (
    SELECT n, a::lsmvector AS va, b::lsmvector AS vb, sum((x - y) ^ 2) AS squares, sum(x * y) AS product,
        sum(abs(x - y)) AS l1, sum(x * x) AS aa, sum(y * y) AS bb
    FROM pairs, unnest(a::float8[], b::float8[]) AS e (x, y) GROUP BY n, a, b
)
SELECT count(*),
    count(*) FILTER (WHERE abs((va <-> vb) - sqrt(squares)) > 1e-5 * (1 + sqrt(squares))) AS l2_off,
    count(*) FILTER (WHERE abs((va <#> vb) + product) > 1e-5 * (1 + abs(product))) AS ip_off,
    count(*) FILTER (WHERE abs((va <=> vb) - (1 - product / sqrt(aa * bb))) > 1e-5) AS cosine_off,
    count(*) FILTER (WHERE abs((va <+> vb) - l1) > 1e-5 * (1 + l1)) AS l1_off
FROM sums;
