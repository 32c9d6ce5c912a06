-- Shared by every operation. All keys of one payer share the hash tag of KEYS[1], so they share a cluster shard:
--   <base>:h          hash: authorization -> packed hold
--   <base>:n          sorted set: authorization by the end of its nonce hold
--   <base>:b:<asset>  sorted set: authorization by the end of its balance hold, those that count
--   <base>:s:<asset>  the sum of those
--   <base>:m:<asset>  sorted set: authorization by the block that mined it
-- Amounts are 72 hex digits (288 bits) in limbs of 24 bits: Lua's numbers are exact to 53 bits only.
local base = KEYS[1]
local holds = base .. ':h'
local nonces = base .. ':n'
local KEPT_MS = 3600000

local function limbs(text)
  local list = {}
  for i = 1, 12 do list[i] = tonumber(string.sub(text, i * 6 - 5, i * 6), 16) end
  return list
end

local function text(list)
  local parts = {}
  for i = 1, 12 do parts[i] = string.format('%06x', list[i]) end
  return table.concat(parts)
end

-- Milliseconds since 1970 by Redis' own clock, which all processes share; tests give another.
local function moment(given)
  if given ~= '-' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function after(now, ms) return string.format('%.0f', now + tonumber(ms)) end

local ZERO = string.rep('0', 72)

local function add(left, right)
  local a, b, carry = limbs(left), limbs(right), 0
  for i = 12, 1, -1 do
    local sum = a[i] + b[i] + carry
    carry = sum >= 16777216 and 1 or 0
    a[i] = sum - carry * 16777216
  end
  return text(a)
end

local function subtract(left, right)
  local a, b, borrow = limbs(left), limbs(right), 0
  for i = 12, 1, -1 do
    local rest = a[i] - b[i] - borrow
    borrow = rest < 0 and 1 or 0
    a[i] = rest + borrow * 16777216
  end
  if borrow == 1 then return ZERO end
  return text(a)
end

local function exceeds(left, right)
  local a, b = limbs(left), limbs(right)
  for i = 1, 12 do
    if a[i] ~= b[i] then return a[i] > b[i] end
  end
  return false
end

-- The version is that of the last grant or renewal; '-' if nobody can give the hold back.
local FIELDS = { 'asset', 'value', 'tenant', 'digest', 'idempotency', 'settling', 'nonce_until', 'balance_until', 'mined', 'version' }

local function get(member)
  local packed = redis.call('HGET', holds, member)
  if not packed then return nil end
  local hold, i = {}, 1
  for field in string.gmatch(packed, '[^,]+') do
    hold[FIELDS[i]] = field
    i = i + 1
  end
  return hold
end

local function balance_key(asset) return base .. ':b:' .. asset end
local function sum_key(asset) return base .. ':s:' .. asset end
local function mined_key(asset) return base .. ':m:' .. asset end
local function sum(asset) return redis.call('GET', sum_key(asset)) or ZERO end

local function expire(key, ttl)
  redis.call('PEXPIRE', key, ttl, 'NX')
  redis.call('PEXPIRE', key, ttl, 'GT')
end

-- No longer counts as a hold that is not mined. False if it did not.
local function uncount(member, hold)
  if redis.call('ZREM', balance_key(hold.asset), member) == 0 then return false end
  if redis.call('EXISTS', balance_key(hold.asset)) == 0 then
    redis.call('DEL', sum_key(hold.asset))
  else
    local ttl = redis.call('PTTL', sum_key(hold.asset))
    redis.call('SET', sum_key(hold.asset), subtract(sum(hold.asset), hold.value))
    if ttl > 0 then redis.call('PEXPIRE', sum_key(hold.asset), ttl) end
  end
  return true
end

local function remove(member)
  local hold = get(member)
  if not hold then return false end
  if hold.mined == '-' then uncount(member, hold) else redis.call('ZREM', mined_key(hold.asset), member) end
  redis.call('HDEL', holds, member)
  redis.call('ZREM', nonces, member)
  return true
end

-- `ttl_ms` is how long server-side expiry must leave it alone at least.
local function put(member, hold, ttl_ms)
  remove(member)
  local packed = {}
  for i = 1, #FIELDS do packed[i] = hold[FIELDS[i]] end
  redis.call('HSET', holds, member, table.concat(packed, ','))
  redis.call('ZADD', nonces, hold.nonce_until, member)
  local ttl = string.format('%.0f', math.max(ttl_ms, 0) + KEPT_MS)
  if hold.mined == '-' then
    redis.call('ZADD', balance_key(hold.asset), hold.balance_until, member)
    local old = redis.call('PTTL', sum_key(hold.asset))
    redis.call('SET', sum_key(hold.asset), add(sum(hold.asset), hold.value))
    if old > 0 then redis.call('PEXPIRE', sum_key(hold.asset), old) end
    expire(balance_key(hold.asset), ttl)
    expire(sum_key(hold.asset), ttl)
  else
    redis.call('ZADD', mined_key(hold.asset), hold.mined, member)
    expire(mined_key(hold.asset), ttl)
  end
  expire(holds, ttl)
  expire(nonces, ttl)
end

local function live(hold, now)
  return hold and (hold.mined ~= '-' or tonumber(hold.nonce_until) > now)
end

local function later(left, right)
  if tonumber(left) >= tonumber(right) then return left end
  return right
end
