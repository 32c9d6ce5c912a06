-- Times of 256 bits. A permit is void from the second behind its deadline on, which takes one bit more.
ALTER TABLE settlements
    ALTER COLUMN valid_after  TYPE NUMERIC(78, 0),
    ALTER COLUMN valid_before TYPE NUMERIC(78, 0);
