-- How Argo CD judges a GraphToken. README.md beside this file tells how to install it; tests/health runs it on every kind of
-- status. It uses no Lua library, since Argo CD opens hardly any.
local function result(status, message)
  return { status = status, message = message }
end

local status = obj.status or {}
local generation = obj.metadata ~= nil and obj.metadata.generation or nil
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function because(condition)
  return condition.reason .. ": " .. condition.message
end

-- The status may speak of the spec before.
if status.observedGeneration ~= generation then
  return result("Progressing", "The operator has not seen this spec yet")
end

-- A person must act, if only before the token expires.
local stalled = conditions["Stalled"]
if stalled ~= nil and stalled.status == "True" then
  return result("Degraded", because(stalled))
end

local refreshed = conditions["Refreshed"]
if refreshed ~= nil and refreshed.reason == "Suspended" then
  return result("Suspended", refreshed.message)
end

-- Pods get 401 by now.
local ready = conditions["Ready"]
if ready ~= nil and ready.status == "False" and ready.reason == "TokenExpired" then
  return result("Degraded", because(ready))
end
local verified = conditions["Verified"]
if verified ~= nil and verified.status == "False" and verified.reason == "TokenRejected" then
  return result("Degraded", because(verified))
end

if ready == nil then
  return result("Progressing", "The operator has said nothing yet")
end
if ready.status ~= "True" then
  return result("Progressing", because(ready))
end

-- The token is good. What does not work, and heals by itself, is worth a word and no more.
if refreshed ~= nil and refreshed.status == "False" then
  return result("Healthy", ready.message .. "; the latest refresh failed: " .. because(refreshed))
end
return result("Healthy", ready.message)
