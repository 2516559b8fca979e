SET client_min_messages = warning;
CREATE EXTENSION kriya_pg;
SELECT extname, extversion FROM pg_extension WHERE extname = 'kriya_pg';
