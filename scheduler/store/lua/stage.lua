-- stage: the first pages of a graph, unless Redis is too full for another run.
--
-- KEYS[1]  hash    pages of one submission                   keys.staged
-- ARGV     share of maxmemory that may be in use (0: any), seconds that the pages last, then page number, page, …
-- Returns  {"staged", bytes in use, bytes that may be (0: any), maxmemory} | {"full", the same}          O(pages)
--
-- What may not ask INFO is not guarded; one over maxmemory itself is refused by Redis, here as everywhere.
local guard, used, most = tonumber(ARGV[1]), 0, 0
if guard > 0 then
  local said = redis.pcall("INFO", "memory")
  if type(said) == "string" then
    used = tonumber(string.match(said, "used_memory:(%d+)") or 0)
    most = tonumber(string.match(said, "maxmemory:(%d+)") or 0)
    if most > 0 and used > guard * most then return {"full", used, math.floor(guard * most), most} end
  end
end
redis.call("HSET", KEYS[1], unpack(ARGV, 3))
redis.call("EXPIRE", KEYS[1], ARGV[2])
return {"staged", used, math.floor(guard * most), most}
