-- forget: remove an ended run that is archived, if the caller still owns the shard and the run is as it was archived.
--
-- KEYS[1]  string  the shard's epoch                          keys.epoch
-- KEYS[2]  zset    ended runs of the shard                    keys.ended
-- KEYS[3]  hash    runs of which something is left            keys.gone
-- KEYS[4]  string  what remembers the run's idempotency key   keys.archived
-- KEYS[5]  hash    the run                                    keys.run
-- KEYS[6]  stream  its log                                    keys.log
-- KEYS[7…] what else of it goes now
-- ARGV     epoch, run, ended at ms, state, id of its log's last entry, seconds to remember its key (0: not at all),
--          number of its nodes when some of their records are left for sweep.lua, else 0
-- Returns  "forgotten" | "changed" (not as archived; nothing is removed) | "fenced"        O(keys)
--
-- From here on nobody finds the run, so what is left of it is nobody's but the sweeper's. The removal comes before the
-- notes about it: a Redis that is full lets a script write what it likes once it has removed something.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return "fenced" end
local ended_at = redis.call("ZSCORE", KEYS[2], ARGV[2])
local found = redis.call("HMGET", KEYS[5], "state", "hash", "key")
local last = redis.call("XREVRANGE", KEYS[6], "+", "-", "COUNT", 1)
if not ended_at or tonumber(ended_at) ~= tonumber(ARGV[3]) or found[1] ~= ARGV[4]
  or (last[1] and last[1][1] or "0") ~= ARGV[5] then
  return "changed"
end
redis.call("ZREM", KEYS[2], ARGV[2])
redis.call("UNLINK", unpack(KEYS, 5))
if found[3] and tonumber(ARGV[6]) > 0 then
  redis.call("SET", KEYS[4], string.format("%s|%s|%s", found[2], found[1], ARGV[3]), "EX", ARGV[6])
end
if tonumber(ARGV[7]) > 0 then redis.call("HSET", KEYS[3], ARGV[2], string.format("%s|%s", found[2], ARGV[7])) end
return "forgotten"
