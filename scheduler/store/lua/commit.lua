-- commit: apply the writes of one batch, whole, if the caller still owns the shard.
--
-- KEYS[1]  string   the shard's epoch                        keys.epoch
-- KEYS[2…] the keys that the writes name, all of the same shard
-- ARGV     epoch, then for each write: command, number of its key in KEYS, count of arguments, arguments
-- Returns  "committed" | "fenced"                            O(arguments)
--
-- Everything is checked before the first write, for Redis does not roll back.
local allowed = {
  HSET = "hash", HDEL = "hash", ZADD = "zset", ZREM = "zset", XADD = "stream", XDEL = "stream",
  RPUSH = "list", LTRIM = "list", PERSIST = "any", UNLINK = "any",
}
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return "fenced" end
local at = 2
while at <= #ARGV do
  local command, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local wants = allowed[command]
  if not wants then return redis.error_reply("CELERIAC commit: no such write: " .. command) end
  if wants ~= "any" then
    local found = redis.call("TYPE", key).ok
    if found ~= "none" and found ~= wants then
      return redis.error_reply("CELERIAC commit: " .. key .. " is a " .. found .. ", expected a " .. wants)
    end
  end
  at = at + 3 + count
end
at = 2
while at <= #ARGV do
  local count = tonumber(ARGV[at + 2])
  redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
return "committed"
