-- The image of PostgreSQL creates the database mlflow itself.
CREATE DATABASE mlflow_auth;
