-- redrive: a dead letter goes, once what it held has been put back; an inbox record is put back here, in the same step.
--
-- KEYS[1]  stream  dead letters of the shard                 keys.dead
-- KEYS[2]  hash    their counts                              keys.dead_counts
-- KEYS[3]  stream  the shard's inbox                         keys.inbox
-- ARGV     id of the letter, then name, value, … of the entry to put into the inbox, none for a letter that only goes
-- Returns  1 | 0 (there is no such letter any more; nothing was done)                          O(1)
if #redis.call("XRANGE", KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
if #ARGV > 1 then redis.call("XADD", KEYS[3], "*", unpack(ARGV, 2)) end
redis.call("XDEL", KEYS[1], ARGV[1])
redis.call("HINCRBY", KEYS[2], "taken", 1)
return 1
