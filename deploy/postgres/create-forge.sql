-- Run once, by the database's own first start. Dagster's tables lie in POSTGRES_DB; registry, jobs and approvals in
-- a database of their own, because both sides have a table called "jobs".
CREATE DATABASE forge;
