-- Times of 256 bits. They have always been decimal text here, so only the number of this migration counts: it keeps away
-- an older teller, which reads 64 bits.
SELECT 1;
