-- sweep: remove some of what is left of a run that was forgotten, or note that nothing is left.
--
-- KEYS[1]  string  the shard's epoch                          keys.epoch
-- KEYS[2]  hash    runs of which something is left            keys.gone
-- KEYS[3…] records, outputs and blobs of the run; none: it is swept
-- ARGV     epoch, run
-- Returns  "swept" | "done" (nothing of it was left) | "fenced"      O(keys)
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return "fenced" end
if redis.call("HEXISTS", KEYS[2], ARGV[2]) == 0 then return "done" end
if KEYS[3] then
  redis.call("UNLINK", unpack(KEYS, 3))
else
  redis.call("HDEL", KEYS[2], ARGV[2])
end
return "swept"
