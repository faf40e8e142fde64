-- submit: make a run of a graph, once. Its pages have been staged; or come along, when they are few.
--
-- KEYS[1]  hash    the run                                   keys.run
-- KEYS[2]  hash    its pages, if they have been staged       keys.staged
-- KEYS[3]  hash    where they will stay                      keys.spec
-- KEYS[4]  zset    live runs of the shard                    keys.live
-- KEYS[5]  stream  the shard's inbox                         keys.inbox
-- KEYS[6]  string  what remembers a removed run's key        keys.archived
-- KEYS[7]  hash    runs of which something is left           keys.gone
-- KEYS[8]  hash    bytes that live runs may come to take     keys.expected
-- ARGV     run id, number of pages, bytes that it may come to take, 1 to ask for a limit of memory else 0, number of
--          arguments for pages that come along, those (page number, page, …), then field, value, … of the run
-- Returns  {"accepted", now ms} | {"exists" or "archived", hash of its graph} | {"incomplete", pages found}
--          | {"limited"} (there is a limit of memory; nothing was done)                                        O(fields)
local hash = redis.call("HGET", KEYS[1], "hash")
if hash then return {"exists", hash} end
hash = string.match(redis.call("GET", KEYS[6]) or redis.call("HGET", KEYS[7], ARGV[1]) or "", "^[^|]+")
if hash then return {"archived", hash} end
local given = tonumber(ARGV[5])
local pages = given > 0 and given / 2 or redis.call("HLEN", KEYS[2])
if pages ~= tonumber(ARGV[2]) then return {"incomplete", pages} end
if ARGV[4] == "1" then
  local said = redis.pcall("INFO", "memory")
  if type(said) == "string" and tonumber(string.match(said, "maxmemory:(%d+)") or 0) > 0 then return {"limited"} end
end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("HSET", KEYS[1], "created_at_ms", string.format("%.0f", now), unpack(ARGV, 6 + given))
if given > 0 then
  redis.call("HSET", KEYS[3], unpack(ARGV, 6, 5 + given))
elseif pages > 0 then
  redis.call("RENAME", KEYS[2], KEYS[3])
  redis.call("PERSIST", KEYS[3])
end
redis.call("HSET", KEYS[8], ARGV[1], ARGV[3])
redis.call("HINCRBY", KEYS[8], "all", ARGV[3])
redis.call("ZADD", KEYS[4], now, ARGV[1])
redis.call("XADD", KEYS[5], "*", "submit", ARGV[1])
return {"accepted", now}
