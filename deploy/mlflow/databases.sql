-- The PostgreSQL image creates the database mlflow itself.
CREATE DATABASE mlflow_auth;
