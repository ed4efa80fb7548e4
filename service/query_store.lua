-- service.query_store.LocalStore.link, over one Redis: the same records, tables and evidence.
-- KEYS[1] is the prefix of every key, with a hash tag, so that a cluster keeps them together.
local RECORDS, SLOTS, BYTES = 4096, 65536, 84 -- of one key: records, slots; bytes of a record
local FORMAT = '<I4I4I4I4I4I2I2I2I2c8c48'
local NEW, REPEAT, SAME, NEAR, TONE = 0, 1, 2, 3, 4
local prefix = KEYS[1]
local seconds, kept, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, same_limit, alarm = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local contrast_share, brightness_limit = tonumber(ARGV[7]), tonumber(ARGV[8])
local most_senders, relief = tonumber(ARGV[9]), tonumber(ARGV[10])
local flip_step, flip_toned = tonumber(ARGV[11]), tonumber(ARGV[12])
local WEIGHTS, FIRST_SLOT = 13, 34 -- where six weights, and then the slots, begin
local label, known, sender, study = tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21]), tonumber(ARGV[22])
local contrast, brightness = tonumber(ARGV[23]), tonumber(ARGV[24])
local pixels, sketch, incident = ARGV[25], ARGV[26], ARGV[27]
local hint = { -- cluster 0: none
  root = tonumber(ARGV[28]), kind = tonumber(ARGV[29]), flip = tonumber(ARGV[30]),
  relieved = tonumber(ARGV[31]), sender = ARGV[32], wanted = tonumber(ARGV[33]),
}

local function record_at(number)
  local index = number % capacity
  local offset = (index % RECORDS) * BYTES
  return prefix .. ':r:' .. math.floor(index / RECORDS), offset
end

local function slot_at(band, slot)
  return prefix .. ':t:' .. band .. ':' .. math.floor(slot / SLOTS), (slot % SLOTS) * 4
end

local function cluster_of(root)
  local key = prefix .. ':c:' .. root
  return key, redis.call('HMGET', key, 'queries', 'flips', 'points', 'incident', 'senders', 'toned')
end

local bytes = { string.byte(sketch, 1, -1) }
local seen, best, nearest = {}, nil, limit + 1
for argument = FIRST_SLOT, #ARGV do
  local key, offset = slot_at(argument - FIRST_SLOT, tonumber(ARGV[argument]))
  local entry = redis.call('GETRANGE', key, offset, offset + 3)
  local number = #entry == 4 and struct.unpack('<I4', entry) or 0
  if number > 0 and not seen[number] then
    seen[number] = true
    local where, at = record_at(number)
    local packed = redis.call('GETRANGE', where, at, at + BYTES - 1)
    if #packed == BYTES then
      local r = { struct.unpack(FORMAT, packed) }
      if r[2] == number and r[1] + kept >= seconds then
        if r[10] == pixels then
          local _, c = cluster_of(r[3])
          if not c[1] then
            return { REPEAT, 0, r[3], 1, 0, 1, 0, '', 0, 0 }
          end
          return {
            REPEAT, 0, r[3], tonumber(c[1]), tonumber(c[2]), tonumber(c[5]), tonumber(c[3]),
            c[4] or '', 0, r[9],
          }
        end
        local other, apart = { string.byte(r[11], 1, -1) }, 0
        for i = 1, #bytes do
          local difference = bytes[i] - other[i]
          apart = apart + difference * difference
        end
        if apart < nearest or (apart == nearest and best and number > best[2]) then
          best, nearest = r, apart
        end
      end
    end
  end
end

local number = (redis.call('INCR', prefix .. ':n') - 1) % 4294967295 + 1
local link
if best then
  link = { root = best[3], kind = NEAR, flip = 0, relieved = 0, sender = best[5] }
  if math.abs(contrast - best[7]) > contrast_share * best[7]
    or math.abs(brightness - best[8]) > brightness_limit then
    link.kind = TONE
  elseif nearest <= same_limit then
    link.kind = SAME
  end
  if label ~= best[6] then link.flip = 1 end
  if (study ~= 0 and study == best[4]) or (known == 1 and sender == best[5]) then
    link.relieved = 1
  end
end
if hint.root ~= 0 and (not link or hint.wanted == 1) then link = hint end

local root, late, answer = number, 0, { NEW, 0, number, 1, 0, 1, 0, '', 0, 0 }
if link then
  root = link.root
  local key, c = cluster_of(root)
  local images = tonumber(c[1]) or 1
  local flips = (tonumber(c[2]) or 0) + link.flip
  local toned = c[6] == '1' or link.kind == TONE
  local first_weight = WEIGHTS + 2 * (link.kind - SAME)
  local weight = tonumber(ARGV[first_weight])
  if link.relieved == 1 then
    weight = math.floor(weight / relief)
  elseif link.flip == 1 then
    weight = tonumber(ARGV[first_weight + 1])
    weight = math.min(weight, toned and flip_toned or flip_step * images)
  end
  local points = (tonumber(c[3]) or 0) + weight
  local senders = tonumber(c[5])
  if not senders then
    redis.call('HSET', key, 's' .. link.sender, 1)
    senders = 1
  end
  if senders < most_senders then
    senders = senders + redis.call('HSETNX', key, 's' .. sender, 1)
  end
  local raised, first = c[4] or '', 0
  if raised == '' and points >= alarm then raised, first = incident, 1 end
  redis.call('HSET', key, 'queries', images + 1, 'flips', flips, 'points', points,
    'incident', raised, 'senders', senders, 'toned', toned and 1 or 0)
  redis.call('EXPIRE', key, kept)
  if raised ~= '' then late = 1 end
  answer = { link.kind, link.flip, root, images + 1, flips, senders, points, raised, first, 0 }
end

local where, at = record_at(number)
redis.call('SETRANGE', where, at, struct.pack(FORMAT, seconds, number, root, study, sender, label,
  contrast, brightness, late, pixels, sketch))
redis.call('EXPIRE', where, 2 * kept)
local entry = struct.pack('<I4', number)
for argument = FIRST_SLOT, #ARGV do
  local key, offset = slot_at(argument - FIRST_SLOT, tonumber(ARGV[argument]))
  redis.call('SETRANGE', key, offset, entry)
  redis.call('EXPIRE', key, 2 * kept)
end
return answer
