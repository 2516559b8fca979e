-- The extension kriya_pg, version 0.1.0.
--
-- Written by hand and bound by symbol: every `LANGUAGE c` function here is a `sql_function!` in src/, whose body reads
-- exactly the arguments declared. Change both together.

\echo Use "CREATE EXTENSION kriya_pg" to load this file. \quit

-- ============================================================================
-- Part 1: the type lsmvector (src/types)
-- ============================================================================

CREATE TYPE lsmvector;

CREATE FUNCTION lsm_vector_in(cstring, oid, integer) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_in';
COMMENT ON FUNCTION lsm_vector_in(cstring, oid, integer) IS 'I/O';

CREATE FUNCTION lsm_vector_out(lsmvector) RETURNS cstring
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_out';
COMMENT ON FUNCTION lsm_vector_out(lsmvector) IS 'I/O';

CREATE FUNCTION lsm_vector_recv(internal, oid, integer) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_recv';
COMMENT ON FUNCTION lsm_vector_recv(internal, oid, integer) IS 'I/O';

CREATE FUNCTION lsm_vector_send(lsmvector) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_send';
COMMENT ON FUNCTION lsm_vector_send(lsmvector) IS 'I/O';

CREATE FUNCTION lsm_vector_typmod_in(cstring[]) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_typmod_in';
COMMENT ON FUNCTION lsm_vector_typmod_in(cstring[]) IS 'I/O typmod';

CREATE TYPE lsmvector (
    INPUT = lsm_vector_in,
    OUTPUT = lsm_vector_out,
    RECEIVE = lsm_vector_recv,
    SEND = lsm_vector_send,
    TYPMOD_IN = lsm_vector_typmod_in,
    ALIGNMENT = int4,
    STORAGE = external
);
COMMENT ON TYPE lsmvector IS 'vector of float4, lsmvector(n) for n dimensions';

-- Casts

CREATE FUNCTION lsm_vector(lsmvector, integer, boolean) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector';
COMMENT ON FUNCTION lsm_vector(lsmvector, integer, boolean) IS 'hold a vector to its type modifier';

CREATE FUNCTION lsm_array_to_vector(integer[], integer, boolean) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_array_to_vector';
COMMENT ON FUNCTION lsm_array_to_vector(integer[], integer, boolean) IS 'convert integer[] to a vector';

CREATE FUNCTION lsm_array_to_vector(real[], integer, boolean) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_array_to_vector';
COMMENT ON FUNCTION lsm_array_to_vector(real[], integer, boolean) IS 'convert real[] to a vector';

CREATE FUNCTION lsm_array_to_vector(double precision[], integer, boolean) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_array_to_vector';
COMMENT ON FUNCTION lsm_array_to_vector(double precision[], integer, boolean) IS 'convert double precision[] to a vector';

CREATE FUNCTION lsm_array_to_vector(numeric[], integer, boolean) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_array_to_vector';
COMMENT ON FUNCTION lsm_array_to_vector(numeric[], integer, boolean) IS 'convert numeric[] to a vector';

CREATE FUNCTION lsm_vector_to_float4(lsmvector, integer, boolean) RETURNS real[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_to_float4';
COMMENT ON FUNCTION lsm_vector_to_float4(lsmvector, integer, boolean) IS 'convert a vector to real[]';

CREATE CAST (lsmvector AS lsmvector) WITH FUNCTION lsm_vector(lsmvector, integer, boolean) AS IMPLICIT;
CREATE CAST (lsmvector AS real[]) WITH FUNCTION lsm_vector_to_float4(lsmvector, integer, boolean) AS IMPLICIT;
CREATE CAST (integer[] AS lsmvector)
    WITH FUNCTION lsm_array_to_vector(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (real[] AS lsmvector)
    WITH FUNCTION lsm_array_to_vector(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS lsmvector)
    WITH FUNCTION lsm_array_to_vector(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS lsmvector)
    WITH FUNCTION lsm_array_to_vector(numeric[], integer, boolean) AS ASSIGNMENT;

-- Distances. A few hundred multiplications cost several times what a comparison of integers does.

CREATE FUNCTION lsm_l2_distance(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_l2_distance';
COMMENT ON FUNCTION lsm_l2_distance(lsmvector, lsmvector) IS 'Euclidean distance';

CREATE FUNCTION lsm_l2_squared_distance(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_l2_squared_distance';
COMMENT ON FUNCTION lsm_l2_squared_distance(lsmvector, lsmvector) IS 'squared Euclidean distance';

CREATE FUNCTION lsm_inner_product(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_inner_product';
COMMENT ON FUNCTION lsm_inner_product(lsmvector, lsmvector) IS 'inner product';

CREATE FUNCTION lsm_negative_inner_product(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_negative_inner_product';
COMMENT ON FUNCTION lsm_negative_inner_product(lsmvector, lsmvector) IS 'negative inner product';

CREATE FUNCTION lsm_cosine_distance(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_cosine_distance';
COMMENT ON FUNCTION lsm_cosine_distance(lsmvector, lsmvector) IS 'cosine distance';

CREATE FUNCTION lsm_l1_distance(lsmvector, lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5
    AS 'MODULE_PATHNAME', 'lsm_l1_distance';
COMMENT ON FUNCTION lsm_l1_distance(lsmvector, lsmvector) IS 'taxicab distance';

CREATE OPERATOR <-> (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_l2_distance, COMMUTATOR = <->
);
CREATE OPERATOR <#> (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_negative_inner_product, COMMUTATOR = <#>
);
CREATE OPERATOR <=> (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_cosine_distance, COMMUTATOR = <=>
);
CREATE OPERATOR <+> (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_l1_distance, COMMUTATOR = <+>
);

-- Properties and arithmetic

CREATE FUNCTION lsm_vector_dims(lsmvector) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_dims';
COMMENT ON FUNCTION lsm_vector_dims(lsmvector) IS 'number of dimensions';

CREATE FUNCTION lsm_vector_norm(lsmvector) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_norm';
COMMENT ON FUNCTION lsm_vector_norm(lsmvector) IS 'Euclidean norm';

CREATE FUNCTION lsm_l2_normalize(lsmvector) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_l2_normalize';
COMMENT ON FUNCTION lsm_l2_normalize(lsmvector) IS 'scale to Euclidean norm 1';

CREATE FUNCTION lsm_vector_add(lsmvector, lsmvector) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_add';
COMMENT ON FUNCTION lsm_vector_add(lsmvector, lsmvector) IS 'implementation of + operator';

CREATE FUNCTION lsm_vector_sub(lsmvector, lsmvector) RETURNS lsmvector
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_sub';
COMMENT ON FUNCTION lsm_vector_sub(lsmvector, lsmvector) IS 'implementation of - operator';

CREATE OPERATOR + (LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_add, COMMUTATOR = +);
CREATE OPERATOR - (LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_sub);

-- Order: element by element, then by length, as arrays are

CREATE FUNCTION lsm_vector_lt(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_lt';
COMMENT ON FUNCTION lsm_vector_lt(lsmvector, lsmvector) IS 'implementation of < operator';

CREATE FUNCTION lsm_vector_le(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_le';
COMMENT ON FUNCTION lsm_vector_le(lsmvector, lsmvector) IS 'implementation of <= operator';

CREATE FUNCTION lsm_vector_eq(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_eq';
COMMENT ON FUNCTION lsm_vector_eq(lsmvector, lsmvector) IS 'implementation of = operator';

CREATE FUNCTION lsm_vector_ne(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_ne';
COMMENT ON FUNCTION lsm_vector_ne(lsmvector, lsmvector) IS 'implementation of <> operator';

CREATE FUNCTION lsm_vector_ge(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_ge';
COMMENT ON FUNCTION lsm_vector_ge(lsmvector, lsmvector) IS 'implementation of >= operator';

CREATE FUNCTION lsm_vector_gt(lsmvector, lsmvector) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_gt';
COMMENT ON FUNCTION lsm_vector_gt(lsmvector, lsmvector) IS 'implementation of > operator';

CREATE FUNCTION lsm_vector_cmp(lsmvector, lsmvector) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'lsm_vector_cmp';
COMMENT ON FUNCTION lsm_vector_cmp(lsmvector, lsmvector) IS 'less-equal-greater';

CREATE OPERATOR < (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_lt,
    COMMUTATOR = >, NEGATOR = >=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
CREATE OPERATOR <= (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_le,
    COMMUTATOR = >=, NEGATOR = >, RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
CREATE OPERATOR = (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_eq,
    COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel, MERGES
);
CREATE OPERATOR <> (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_ne,
    COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel, JOIN = neqjoinsel
);
CREATE OPERATOR >= (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_ge,
    COMMUTATOR = <=, NEGATOR = <, RESTRICT = scalargesel, JOIN = scalargejoinsel
);
CREATE OPERATOR > (
    LEFTARG = lsmvector, RIGHTARG = lsmvector, FUNCTION = lsm_vector_gt,
    COMMUTATOR = <, NEGATOR = <=, RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);

CREATE OPERATOR CLASS lsm_vector_ops DEFAULT FOR TYPE lsmvector USING btree AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >,
    FUNCTION 1 lsm_vector_cmp(lsmvector, lsmvector);

-- ---------------------------------------------------------------------------------------------------------------------
-- Access methods
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION lsm_s3_handler(internal) RETURNS table_am_handler
    LANGUAGE c AS 'MODULE_PATHNAME', 'lsm_s3_handler';
CREATE ACCESS METHOD lsm_s3 TYPE TABLE HANDLER lsm_s3_handler;
COMMENT ON ACCESS METHOD lsm_s3 IS 'tables in an LSM tree on object storage';

CREATE FUNCTION lsm_hnsw_handler(internal) RETURNS index_am_handler
    LANGUAGE c AS 'MODULE_PATHNAME', 'lsm_hnsw_handler';
CREATE ACCESS METHOD lsm_hnsw TYPE INDEX HANDLER lsm_hnsw_handler;
COMMENT ON ACCESS METHOD lsm_hnsw IS 'nearest neighbours by hierarchical navigable small worlds';

-- Support function 1 of an operator class names its metric.
CREATE FUNCTION lsm_hnsw_metric_l2() RETURNS integer
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'lsm_hnsw_metric_l2';
CREATE FUNCTION lsm_hnsw_metric_cosine() RETURNS integer
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'lsm_hnsw_metric_cosine';
CREATE FUNCTION lsm_hnsw_metric_ip() RETURNS integer
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'lsm_hnsw_metric_ip';

CREATE OPERATOR CLASS lsm_vector_l2_ops DEFAULT FOR TYPE lsmvector USING lsm_hnsw AS
    OPERATOR 1 <-> (lsmvector, lsmvector) FOR ORDER BY float_ops,
    FUNCTION 1 lsm_hnsw_metric_l2();
CREATE OPERATOR CLASS lsm_vector_cosine_ops FOR TYPE lsmvector USING lsm_hnsw AS
    OPERATOR 1 <=> (lsmvector, lsmvector) FOR ORDER BY float_ops,
    FUNCTION 1 lsm_hnsw_metric_cosine();
CREATE OPERATOR CLASS lsm_vector_ip_ops FOR TYPE lsmvector USING lsm_hnsw AS
    OPERATOR 1 <#> (lsmvector, lsmvector) FOR ORDER BY float_ops,
    FUNCTION 1 lsm_hnsw_metric_ip();

-- ---------------------------------------------------------------------------------------------------------------------
-- The store
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION lsm_s3_status() RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'lsm_s3_status';
COMMENT ON FUNCTION lsm_s3_status() IS 'what the storage worker says about itself, a fact a line';

CREATE FUNCTION lsm_s3_check(OUT operation text, OUT ok boolean, OUT detail text) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lsm_s3_check';
COMMENT ON FUNCTION lsm_s3_check() IS 'tries what the storage worker needs of the object store, with the current settings';
REVOKE ALL ON FUNCTION lsm_s3_check() FROM PUBLIC;

CREATE FUNCTION lsm_s3_takeover(accept_loss boolean DEFAULT false) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lsm_s3_takeover';
COMMENT ON FUNCTION lsm_s3_takeover(boolean) IS 'takes over a store that was written by another server, or by this one in a history that it no longer has';
REVOKE ALL ON FUNCTION lsm_s3_takeover(boolean) FROM PUBLIC;

CREATE FUNCTION lsm_s3_flush() RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lsm_s3_flush';
COMMENT ON FUNCTION lsm_s3_flush() IS 'writes everything that is in memory to the object store';
REVOKE ALL ON FUNCTION lsm_s3_flush() FROM PUBLIC;
